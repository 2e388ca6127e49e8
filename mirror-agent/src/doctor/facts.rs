//! What netlink tells of an interface beyond [`crate::links::Link`].

use rtnetlink::packet_route::link::{LinkAttribute, LinkInfo, LinkMessage, Stats64};

use crate::kernel::xdp;

/// One interface.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Its number.
    pub ifindex: u32,
    /// `veth`, `vxlan` and so on; empty for a card.
    pub kind: String,
    /// What it has counted.
    pub stats: Stats64,
    /// Queues that it receives by.
    pub rx_queues: u32,
    /// Bytes of the largest super-frame that it is given to send, and that it puts together from what it receives: one
    /// for IPv6 (and for IPv4, where the kernel does not tell them apart), one for IPv4. 0 where the kernel has none.
    pub super_frames: SuperFrames,
    /// The number of its XDP program.
    pub xdp: Option<u32>,
}

/// See [`Facts::super_frames`].
#[derive(Clone, Copy, Debug, Default)]
pub struct SuperFrames {
    /// `gso_max_size` of ip-link(8).
    pub gso: u32,
    /// `gro_max_size`.
    pub gro: u32,
    /// `gso_ipv4_max_size`.
    pub gso_ipv4: u32,
    /// `gro_ipv4_max_size`.
    pub gro_ipv4: u32,
}

impl Facts {
    /// Reads a message.
    #[must_use]
    pub fn read(message: &LinkMessage) -> Self {
        let mut facts = Self { ifindex: message.header.index, rx_queues: 1, ..Self::default() };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::LinkInfo(infos) => {
                    let kind = infos.iter().find_map(|info| match info {
                        LinkInfo::Kind(kind) => Some(kind.to_string()),
                        _ => None,
                    });
                    facts.kind = kind.unwrap_or_default();
                }
                LinkAttribute::Stats64(stats) => facts.stats = *stats,
                LinkAttribute::NumRxQueues(count) => facts.rx_queues = *count,
                LinkAttribute::GsoMaxSize(bytes) => facts.super_frames.gso = *bytes,
                LinkAttribute::GroMaxSize(bytes) => facts.super_frames.gro = *bytes,
                LinkAttribute::GsoIpv4MaxSize(bytes) => facts.super_frames.gso_ipv4 = *bytes,
                LinkAttribute::GroIpv4MaxSize(bytes) => facts.super_frames.gro_ipv4 = *bytes,
                LinkAttribute::Xdp(all) => facts.xdp = xdp::occupant(all),
                _ => {}
            }
        }
        facts
    }
}

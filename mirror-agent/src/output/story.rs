//! What the log says of the way to a sensor: each thing once, until another is true.

use std::net::{IpAddr, SocketAddr};

use super::{interface::Interface, sighting::Refusal};

/// Which way frames take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// Through the host's stack, by a raw socket.
    Stack,
    /// Straight to the card, by a packet socket.
    PacketSocket,
    /// Straight to the card, by AF_XDP.
    Xdp,
    /// Past the IP stack to the interface's queue, by a packet socket.
    Queue,
    /// The same, by a program in the kernel.
    Program,
}

impl Way {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 5] = [Self::Stack, Self::PacketSocket, Self::Xdp, Self::Queue, Self::Program];

    /// What status calls it: by how `--transmit` calls it, where that does.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Stack => "udp",
            Self::PacketSocket | Self::Queue => "packet",
            Self::Xdp => "xdp",
            Self::Program => "program",
        }
    }
}

/// What there is to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Told {
    Straight { way: Way, ifindex: u32, mtu: usize, source: IpAddr, mac: [u8; 6] },
    Refused(Refusal, u32),
    Unseen,
}

/// What the log said last.
#[derive(Debug, Default)]
pub(super) struct Story(Option<Told>);

impl Story {
    /// Says it, unless that was said last.
    pub(super) fn tell(&mut self, sensor: SocketAddr, what: Told) {
        if self.0.as_ref() == Some(&what) {
            return;
        }
        match &what {
            Told::Straight { way, ifindex, mtu, source, .. } => {
                let name = name(*ifindex);
                let by = match way {
                    Way::Xdp => "straight to the card by AF_XDP: tcpdump on this host does not see them",
                    Way::Program => "past the stack by a program in the kernel",
                    Way::Queue => "by its queue and egress hook, since it is mirrored",
                    _ => "straight to the card by a packet socket: tcpdump on this host does not see them",
                };
                log::info!("datagrams to {sensor} leave through {name} from {source}, MTU {mtu}, {by}");
            }
            Told::Refused(refusal, ifindex) => {
                log::info!(
                    "datagrams to {sensor} go through the host's stack: they leave through {}, {refusal}",
                    name(*ifindex)
                );
            }
            Told::Unseen => {
                log::info!(
                    "datagrams to {sensor} go through the host's stack: none is seen to leave as it is"
                );
            }
        }
        self.0 = Some(what);
    }
}

/// An interface's name, or its number where it has none any more.
pub(super) fn name(ifindex: u32) -> String {
    Interface::find(ifindex).map_or_else(|_| format!("interface {ifindex}"), |interface| interface.name())
}

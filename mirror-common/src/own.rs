//! How the hooks know the agent's own datagrams, which must never be mirrored again.
//!
//! Two signs, because neither reaches everywhere. The mark stays with a socket buffer through bridges, NAT
//! and most tunnel devices of one network namespace, and is wiped where a veth pair leads into another.
//! The addresses stay where the mark is wiped. What has lost both is not recognised: a datagram inside
//! WireGuard or a user-space VPN.

use crate::{
    flow,
    headers::{Headers, Part},
    ip,
};

/// `SO_MARK` of every socket that the agent sends from.
pub const MARK: u32 = 0x10d5;

/// The bits of a mark that count. The others belong to kube-proxy (0x4000, 0x8000), Cilium (0x0f00) and
/// Calico (the upper half), which may set them on the agent's datagrams on their way out.
pub const MARK_MASK: u32 = 0x30ff;

/// Whether a socket buffer has the agent's mark.
#[inline(always)]
#[must_use]
pub const fn is_marked(mark: u32) -> bool {
    mark & MARK_MASK == MARK
}

/// From where to where the agent sends. The source port is left out: the flows inside decide it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// The address that the agent sends from.
    pub source: ip::Address,
    /// The sensor's address.
    pub destination: ip::Address,
    /// The sensor's port in host order, widened so that no byte is padding. 0 stands for the later fragments of a
    /// datagram, which name no port.
    pub destination_port: u32,
}

/// The UDP ports that the agent sends to, as far as a quick look tells them from others.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// The only one, in host order; 0 where nothing is sent; [`Self::SEVERAL`] where there are more.
    pub only: u32,
    /// A bit for the lower byte of each.
    pub low_bytes: [u32; 8],
}

impl Ports {
    /// In the place of a port.
    pub const SEVERAL: u32 = 1 << 16;

    /// Nothing is sent.
    pub const NONE: Self = Self { only: 0, low_bytes: [0; 8] };

    /// These ports.
    #[must_use]
    pub fn of(ports: impl IntoIterator<Item = u16>) -> Self {
        let mut all = Self::NONE;
        for port in ports {
            let port = u32::from(port);
            all.only = if all.only == 0 || all.only == port { port } else { Self::SEVERAL };
            all.low_bytes[(port as usize & 0xff) / 32] |= 1 << (port % 32);
        }
        all
    }
}

impl Path {
    /// Whether a packet can be the agent's: a UDP datagram to a port of which `is_ours` says so, or a later fragment
    /// of a UDP datagram, which names no port.
    #[inline(always)]
    #[must_use]
    pub fn may_be(headers: &Headers, is_ours: impl FnOnce(u16) -> bool) -> bool {
        headers.protocol == ip::UDP && (headers.part == Part::Later || is_ours(headers.destination_port))
    }

    /// The path that such a packet takes.
    #[inline(always)]
    #[must_use]
    pub fn of(headers: &Headers) -> Self {
        let port = if headers.part == Part::Later { 0 } else { headers.destination_port };
        Self { source: headers.source, destination: headers.destination, destination_port: port as u32 }
    }

    /// What the paths are looked up by in the kernel. Who looks up compares the whole path afterwards:
    /// nobody may hide a frame by finding another path of the same number.
    #[inline(always)]
    #[must_use]
    pub const fn number(&self) -> u64 {
        flow::mix(
            flow::endpoint(self.source, 0)
                .wrapping_add(flow::endpoint(self.destination, self.destination_port as u16).rotate_left(1)),
        )
    }
}

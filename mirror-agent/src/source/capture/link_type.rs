//! Link types: what a packet of a capture begins with, <https://www.tcpdump.org/linktypes.html>.

use std::fmt;

use pcap_file::DataLink;

/// A link type whose packets are, or can be made, Ethernet frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkType {
    /// IEEE 802.3, without preamble and check sequence.
    Ethernet,
    /// IPv4 or IPv6.
    Ip,
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
    /// Linux cooked, as the device `any` gave it before 2019.
    Cooked,
    /// Linux cooked, version 2.
    Cooked2,
    /// BSD loopback: the address family as a number of the writer's machine.
    Null,
    /// OpenBSD loopback: the address family in network byte order.
    Loop,
}

impl LinkType {
    /// The link type with this number, or `None`.
    pub(super) fn of(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::Null,
            1 => Self::Ethernet,
            // 12 and 14 are what some systems call 101 among themselves; captures have them all the same.
            12 | 14 | 101 => Self::Ip,
            108 => Self::Loop,
            113 => Self::Cooked,
            228 => Self::Ipv4,
            229 => Self::Ipv6,
            276 => Self::Cooked2,
            _ => return None,
        })
    }
}

/// Says which link type is not supported, and which ones are.
pub(super) fn write_unsupported(f: &mut fmt::Formatter<'_>, number: u32) -> fmt::Result {
    write!(f, "link type {number} ")?;
    match DataLink::from(number) {
        DataLink::Unknown(_) => {}
        known => write!(f, "({known:?}) ")?,
    }
    f.write_str("is not supported: Ethernet, raw IP, Linux cooked (v1, v2) and BSD loopback are")
}

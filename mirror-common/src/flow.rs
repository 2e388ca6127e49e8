//! Which connection a frame belongs to, in one number that both directions share.
//!
//! The number decides the ring, and with it the sending thread, and the outer source port: all frames of
//! a connection take one way, in the order in which the kernel saw them.

use crate::{bytes::Bytes, ethernet, ip};

/// First outer source port. RFC 7348 section 5 recommends the dynamic range.
pub const SOURCE_PORT_FIRST: u16 = 49152;

/// Outer source ports in use: the whole dynamic range, 49152 to 65535.
pub const SOURCE_PORTS: u32 = 1 << 14;

/// What a frame's flow is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// An IP packet: its addresses, protocol and ports.
    Ip(ip::Packet),
    /// Anything else: the two MAC addresses and the type between them.
    Other {
        /// Sender's MAC address.
        source: [u8; 6],
        /// Receiver's MAC address.
        destination: [u8; 6],
        /// The type behind the VLAN tags, in host order.
        ethertype: u16,
    },
    /// A frame too short for an Ethernet header.
    Runt,
}

impl Flow {
    /// Finds the flow of an Ethernet frame.
    #[inline(always)]
    pub fn of<B: Bytes + ?Sized>(frame: &B) -> Self {
        let Some(network) = ethernet::network(frame) else {
            return Self::Runt;
        };
        let packet = match network.ethertype {
            ethernet::IPV4 => ip::Packet::v4(frame, network.offset),
            ethernet::IPV6 => ip::Packet::v6(frame, network.offset),
            _ => None,
        };
        if let Some(packet) = packet {
            return Self::Ip(packet);
        }
        match (frame.load(0), frame.load(6)) {
            (Some(destination), Some(source)) => {
                Self::Other { source, destination, ethertype: network.ethertype }
            }
            _ => Self::Runt,
        }
    }

    /// The same number for both directions. VLAN tags do not count: one connection may have a tag on
    /// one side of a router, another tag or none on the other.
    ///
    /// A fragment's ports count as far as it has them; who wants a datagram's fragments together keeps
    /// the number of the one that came first under the datagram's own (see [`datagram`]).
    #[inline(always)]
    #[must_use]
    pub fn hash(&self) -> u32 {
        match self {
            Self::Ip(packet) => combine(
                endpoint(packet.source, packet.source_port),
                endpoint(packet.destination, packet.destination_port),
                u64::from(packet.protocol),
            ),
            Self::Other { source, destination, ethertype } => combine(
                station(*source),
                station(*destination),
                // Beyond every IP protocol number, so that the two kinds never share a key.
                u64::from(*ethertype) << 8,
            ),
            Self::Runt => 0,
        }
    }
}

/// One number for all fragments of a datagram. Two datagrams that share it by chance only share a way to
/// the sensor.
#[inline(always)]
#[must_use]
pub const fn datagram(packet: &ip::Packet, fragment: ip::Fragment) -> u64 {
    mix(endpoint(packet.source, 0)
        .wrapping_add(endpoint(packet.destination, packet.protocol as u16).rotate_left(1))
        .wrapping_add((fragment.id as u64).wrapping_mul(GOLDEN)))
}

/// The outer source port of a flow, 49152 to 65535: what a sensor's card spreads load by.
#[inline(always)]
#[must_use]
pub const fn source_port(flow_hash: u32) -> u16 {
    // The mask leaves 14 bits, and 49152 is 65536 less 2^14: neither cast nor sum overflows.
    SOURCE_PORT_FIRST + (flow_hash & (SOURCE_PORTS - 1)) as u16
}

/// The ring of a flow, below `rings`. Flows of one source port always share a ring, so that one thread
/// alone sends from a port.
#[inline(always)]
#[must_use]
pub const fn ring(flow_hash: u32, rings: u32) -> u32 {
    (flow_hash & (SOURCE_PORTS - 1)) % rings
}

/// Odd, with bits spread evenly: the fraction of the golden ratio.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The finishing step of SplitMix64 (Steele, Lea, Flood 2014): every input bit reaches every output bit.
#[inline(always)]
pub(crate) const fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[inline(always)]
pub(crate) const fn endpoint(address: ip::Address, port: u16) -> u64 {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = address;
    let high = u64::from_ne_bytes([a, b, c, d, e, f, g, h]);
    let low = u64::from_ne_bytes([i, j, k, l, m, n, o, p]);
    // The halves are scaled by different odd numbers, so that swapped halves differ.
    mix(high.wrapping_mul(GOLDEN).wrapping_add(low.rotate_left(32)).wrapping_add(port as u64))
}

#[inline(always)]
const fn station([a, b, c, d, e, f]: [u8; 6]) -> u64 {
    mix(u64::from_ne_bytes([a, b, c, d, e, f, 0, 0]))
}

/// Adds the ends, because a sum does not tell who came first.
#[inline(always)]
const fn combine(one: u64, other: u64, kind: u64) -> u32 {
    (mix(one.wrapping_add(other).wrapping_add(kind.wrapping_mul(GOLDEN))) >> 32) as u32
}

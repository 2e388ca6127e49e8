//! Which connection a frame belongs to, in one number that both directions share.
//!
//! The number decides the ring, and with it the sending thread, and the outer source port: all frames of
//! a connection take one way, in the order in which the kernel saw them.

use crate::{ethernet, headers::Headers, ip};

/// First outer source port. RFC 7348 section 5 recommends the dynamic range.
pub const SOURCE_PORT_FIRST: u16 = 49152;

/// Outer source ports in use: the whole dynamic range, 49152 to 65535.
pub const SOURCE_PORTS: u32 = 1 << 14;

/// The number of a frame's flow, the same for both directions. VLAN tags do not count: one connection may
/// have a tag on one side of a router, another tag or none on the other.
///
/// A frame with no IP packet has the flow of its MAC addresses and type, a frame that ends inside its
/// Ethernet header that of all such frames. A fragment's ports count as far as it has them; who wants a
/// datagram's fragments together keeps the number of the one that came first under [`datagram`].
#[inline(always)]
#[must_use]
pub const fn hash(headers: &Headers) -> u32 {
    // IP protocols end below 0x100 and types start at 0x600, so that the two never share a key; a length
    // in a type's place says nothing of the flow.
    let kind = if headers.is_ip {
        headers.protocol as u64
    } else if headers.ethertype >= ethernet::TYPE_MIN {
        headers.ethertype as u64
    } else {
        0x100
    };
    let ends = endpoint(headers.source, headers.source_port)
        // A sum does not tell who came first.
        .wrapping_add(endpoint(headers.destination, headers.destination_port));
    (mix(ends.wrapping_add(kind.wrapping_mul(GOLDEN))) >> 32) as u32
}

/// One number for all fragments of a datagram. Two datagrams that share it by chance only share a way to
/// the sensor.
#[inline(always)]
#[must_use]
pub const fn datagram(headers: &Headers) -> u64 {
    mix(endpoint(headers.source, 0)
        .wrapping_add(endpoint(headers.destination, headers.protocol as u16).rotate_left(1))
        .wrapping_add((headers.fragment_id as u64).wrapping_mul(GOLDEN)))
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
    // The kernel takes no program that could panic, and the compiler cannot know that `rings` is not 0.
    match (flow_hash & (SOURCE_PORTS - 1)).checked_rem(rings) {
        Some(ring) => ring,
        None => 0,
    }
}

/// Odd, with bits spread evenly: the fraction of the golden ratio.
pub(crate) const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The finishing step of SplitMix64 (Steele, Lea, Flood 2014): every input bit reaches every output bit.
#[inline(always)]
pub(crate) const fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[inline(always)]
pub(crate) const fn endpoint([a, b, c, d]: ip::Address, port: u16) -> u64 {
    let (high, low) = (pair([a, b]), pair([c, d]));
    // The halves are scaled by different odd numbers, so that swapped halves differ.
    mix(high.wrapping_mul(GOLDEN).wrapping_add(low.rotate_left(32)).wrapping_add(port as u64))
}

#[inline(always)]
const fn pair([high, low]: [u32; 2]) -> u64 {
    (high as u64) << 32 | low as u64
}

//! The outer headers for the kernel program that puts them in front of frames.

use mirror_common::{
    ip,
    redirect::{HEADERS_MAX, HEADERS_V4, HEADERS_V6, Halves},
};

use super::{
    outer::{ETHERNET_LEN, IPV4_LEN, Outer, Version},
    vxlan::HEADERS_LEN,
};

/// Headers as a [`mirror_common::redirect::Template`] has them: halves in wire order, with zeros for lengths, source
/// port, identification and checksums, and the sum of what is left.
#[must_use]
pub fn halves_and_sum(outer: &Outer) -> (Halves, u32) {
    let mut bytes = [0; HEADERS_MAX];
    let link = outer.link();
    bytes[..link.len()].copy_from_slice(link);
    let udp = &mut bytes[link.len()..][..HEADERS_LEN];
    udp.copy_from_slice(&outer.encapsulation().headers(0, 0));
    // Source port, and length.
    udp[..2].fill(0);
    udp[4..6].fill(0);
    let (halves, _) = bytes.as_chunks();
    let mut all = [0; HEADERS_MAX / 2];
    for (to, from) in all.iter_mut().zip(halves) {
        *to = u16::from_ne_bytes(*from);
    }
    let (summed, more) = match outer.version() {
        Version::V4 => (ETHERNET_LEN..ETHERNET_LEN + IPV4_LEN, 0),
        // The pseudo-header's addresses and protocol (RFC 8200 section 8.1), and everything from UDP on.
        Version::V6 => (ETHERNET_LEN + 8..HEADERS_V6 as usize, u16::from(ip::UDP).to_be()),
    };
    let sum = all[summed.start / 2..summed.end / 2].iter().map(|&half| u32::from(half)).sum::<u32>();
    (Halves(all), sum + u32::from(more))
}

const _: () = assert!(HEADERS_V4 as usize == ETHERNET_LEN + IPV4_LEN + HEADERS_LEN);
const _: () = assert!(HEADERS_V6 as usize == ETHERNET_LEN + ip::V6_HEADER_LEN + HEADERS_LEN);

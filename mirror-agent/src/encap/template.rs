//! The outer headers for the kernel program that puts them in front of frames.

use mirror_common::{
    geneve, ip,
    record::RecordHeader,
    redirect::{HEADERS_MAX, Halves, TO_TUNNEL_V4, TO_TUNNEL_V6},
    udp,
};

use super::{
    encapsulation::{self, Encapsulation},
    outer::{ETHERNET_LEN, IPV4_LEN, Outer, Version},
};
use crate::source::Frame;

/// Headers as a [`mirror_common::redirect::Template`] has them: halves in wire order, with zeros for lengths, source
/// port, identification, checksums and whatever else differs from frame to frame, and the sum of what is left.
#[must_use]
pub fn halves_and_sum(outer: &Outer, encapsulation: &mut Encapsulation) -> (Halves, u32) {
    /// Of an option's own header.
    const OPTION_HEADER: usize = 4;
    let mut bytes = [0; HEADERS_MAX];
    let link = outer.link();
    bytes[..link.len()].copy_from_slice(link);
    let headers = encapsulation.headers(&Frame::whole(&RecordHeader::default(), &[]));
    let end = link.len() + headers.len();
    let udp = &mut bytes[link.len()..end];
    udp.copy_from_slice(&headers);
    // Source port, and length.
    udp[..2].fill(0);
    udp[4..6].fill(0);
    let tunnel = &mut udp[udp::HEADER_LEN..];
    if encapsulation.has_own_vnis() {
        tunnel[4..7].fill(0);
    }
    if encapsulation.encap().has_metadata() {
        tunnel[geneve::BASE_LEN + OPTION_HEADER..].fill(0);
    }
    let (halves, _) = bytes.as_chunks();
    let mut all = [0; HEADERS_MAX / 2];
    for (to, from) in all.iter_mut().zip(halves) {
        *to = u16::from_ne_bytes(*from);
    }
    let (summed, more) = match outer.version() {
        Version::V4 => (ETHERNET_LEN..ETHERNET_LEN + IPV4_LEN, 0),
        // The pseudo-header's addresses and protocol (RFC 8200 section 8.1), and everything from UDP on.
        Version::V6 => (ETHERNET_LEN + 8..end, u16::from(ip::UDP).to_be()),
    };
    let sum = all[summed.start / 2..summed.end / 2].iter().map(|&half| u32::from(half)).sum::<u32>();
    (Halves(all), sum + u32::from(more))
}

const _: () = assert!(TO_TUNNEL_V4 as usize == ETHERNET_LEN + IPV4_LEN + udp::HEADER_LEN);
const _: () = assert!(TO_TUNNEL_V6 as usize == ETHERNET_LEN + ip::V6_HEADER_LEN + udp::HEADER_LEN);
const _: () = assert!(HEADERS_MAX >= ETHERNET_LEN + ip::V6_HEADER_LEN + encapsulation::HEADERS_MAX);

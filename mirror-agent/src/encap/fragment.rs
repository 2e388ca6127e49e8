//! A datagram as the IP packets that a path takes: most often one, else fragments.

use std::ops::Range;

use mirror_common::{checksum::Sum, ip};

use super::{
    encapsulation::{HEADERS_MAX, Headers},
    outer::{ETHERNET_LEN, LINK_MAX, Outer, Version},
};

/// Bytes of the longest header in front of a part of a frame.
pub const HEADER_MAX: usize = LINK_MAX + ip::FRAGMENT_LEN + HEADERS_MAX;

/// An IP packet with its Ethernet header: the headers, and which part of the frame follows them.
#[derive(Clone, Debug)]
pub struct Packet {
    header: [u8; HEADER_MAX],
    header_len: usize,
    body: Range<usize>,
}

impl Packet {
    /// Everything in front of the frame's bytes.
    #[must_use]
    pub fn header(&self) -> &[u8] {
        &self.header[..self.header_len]
    }

    /// Which of the frame's bytes follow.
    #[must_use]
    pub fn body(&self) -> Range<usize> {
        self.body.clone()
    }

    /// Bytes of the packet with its Ethernet header.
    #[must_use]
    pub fn length(&self) -> usize {
        self.header_len + self.body.len()
    }
}

/// The packets of a datagram, in order.
#[derive(Clone, Debug)]
pub struct Packets<'a> {
    outer: &'a Outer,
    /// From UDP on.
    headers: Headers,
    mtu: usize,
    id: u32,
    /// Bytes of UDP that the packets so far carry, and all of them.
    done: usize,
    total: usize,
}

impl<'a> Packets<'a> {
    pub(super) fn new(outer: &'a Outer, headers: Headers, frame_len: usize, mtu: usize, id: u32) -> Self {
        Self { outer, headers, mtu, id, done: 0, total: headers.len() + frame_len }
    }

    /// Whether no packet is left.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.done == self.total
    }
}

impl Iterator for Packets<'_> {
    type Item = Packet;

    #[inline]
    fn next(&mut self) -> Option<Packet> {
        if self.is_over() {
            return None;
        }
        let version = self.outer.version();
        let left = self.total - self.done;
        let mut room = self.mtu - version.header_len();
        let is_whole = self.total <= room;
        if version == Version::V6 && !is_whole {
            room -= ip::FRAGMENT_LEN;
        }
        // All but the last carry a multiple of 8 bytes: offsets count in these.
        let length = if left > room { room & !7 } else { left };
        let has_more = length < left;

        let link = self.outer.link();
        let mut header = [0; HEADER_MAX];
        header[..link.len()].copy_from_slice(link);
        let mut header_len = link.len();
        let packet = &mut header[ETHERNET_LEN..];
        // A datagram has at most 65,535 bytes, and offsets are multiples of 8.
        match version {
            Version::V4 => {
                // The template's 'do not fragment' holds for what is whole.
                let dont = if is_whole { u16::from_be_bytes([packet[6], packet[7]]) } else { 0 };
                let flags = dont | if has_more { ip::MORE_V4 } else { 0 } | (self.done / 8) as u16;
                packet[2..4].copy_from_slice(&((version.header_len() + length) as u16).to_be_bytes());
                packet[4..6].copy_from_slice(&(self.id as u16).to_be_bytes());
                packet[6..8].copy_from_slice(&flags.to_be_bytes());
                let checksum = Sum::new().with(&packet[..version.header_len()]).checksum();
                packet[10..12].copy_from_slice(&checksum.to_be_bytes());
            }
            Version::V6 => {
                let extension = if is_whole { 0 } else { ip::FRAGMENT_LEN };
                packet[4..6].copy_from_slice(&((extension + length) as u16).to_be_bytes());
                if !is_whole {
                    packet[6] = ip::FRAGMENT;
                    let offset = self.done as u16 | if has_more { ip::MORE_V6 } else { 0 };
                    let fragment = &mut packet[version.header_len()..][..ip::FRAGMENT_LEN];
                    fragment[0] = ip::UDP;
                    fragment[2..4].copy_from_slice(&offset.to_be_bytes());
                    fragment[4..8].copy_from_slice(&self.id.to_be_bytes());
                    header_len += ip::FRAGMENT_LEN;
                }
            }
        }
        // The first packet has room for all headers: the smallest MTU is larger.
        let headers_len = self.headers.len();
        let body = if self.done == 0 {
            header[header_len..][..HEADERS_MAX].copy_from_slice(self.headers.padded());
            header_len += headers_len;
            0..length - headers_len
        } else {
            self.done - headers_len..self.done + length - headers_len
        };
        self.done += length;
        Some(Packet { header, header_len, body })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::net::IpAddr;

    use etherparse::{IpFragOffset, NetSlice, SlicedPacket, defrag::IpDefragPool};
    use mirror_common::record::RecordHeader;
    use proptest::prelude::*;

    use super::*;
    use crate::{
        clock::Clock,
        encap::{
            encapsulation::Encapsulation,
            tunnel::{Encap, Tunnel},
        },
        names::Names,
        source::Frame,
    };

    const ENCAPS: [Encap; 3] =
        [Encap::Vxlan, Encap::Geneve { has_metadata: false }, Encap::Geneve { has_metadata: true }];

    fn outer(is_v6: bool) -> Outer {
        let [source, destination]: [IpAddr; 2] =
            if is_v6 { ["fd20::1", "fd20::2"] } else { ["10.20.0.1", "10.20.0.2"] }
                .map(|ip| ip.parse().unwrap());
        Outer::new([2; 6], [4; 6], source, destination).unwrap()
    }

    fn headers(encap: Encap, flow_hash: u32, length: usize) -> Headers {
        let header = RecordHeader { flow_hash, ..RecordHeader::default() };
        Encapsulation::new(4789, Tunnel::new(encap, 4242), Names::default(), Clock::Epoch)
            .headers(&Frame::whole(&header, &vec![0; length]))
    }

    proptest! {
        #[test]
        fn reassembled_fragments_are_the_datagram(
            is_v6: bool, length in 0_usize..20_000, mtu in 0_usize..3000, id: u32, hash: u32,
            split: prop::sample::Index, encap in prop::sample::select(&ENCAPS[..])
        ) {
            let outer = outer(is_v6);
            let headers = headers(encap, hash, length);
            let frame: Vec<u8> = (0..length).map(|index| (index * 7 + index / 256) as u8).collect();
            let (head, rest) = frame.split_at(split.index(length + 1) & !1);
            let packets: Vec<Packet> = outer.packets(headers, [head, rest], mtu, id).unwrap().collect();
            let mtu = mtu.max(outer.version().mtu_min());
            let whole = outer.packets(headers, [&[], &frame], usize::MAX, id).unwrap().next().unwrap();
            let whole = [&whole.header()[ETHERNET_LEN + outer.version().header_len()..], &frame].concat();
            let mut udp = Vec::new();
            let count = packets.len();
            for (index, packet) in packets.iter().enumerate() {
                let bytes = [packet.header(), &frame[packet.body()]].concat();
                prop_assert_eq!(bytes.len(), packet.length());
                prop_assert!(bytes.len() - ETHERNET_LEN <= mtu, "larger than the MTU");
                let sliced = SlicedPacket::from_ethernet(&bytes).unwrap();
                let is_last = index + 1 == count;
                // By hand, so that nothing rests on one parser's idea of fragments.
                let (offset, more, payload) = match sliced.net.unwrap() {
                    NetSlice::Ipv4(ip) => {
                        let header = ip.header().to_header();
                        prop_assert_eq!(header.header_checksum, header.calc_header_checksum());
                        prop_assert_eq!(header.identification, id as u16);
                        prop_assert!(!header.dont_fragment);
                        (header.fragment_offset, header.more_fragments, &bytes[34..])
                    }
                    NetSlice::Ipv6(ip) => {
                        prop_assert_eq!(usize::from(ip.header().payload_length()), bytes.len() - 54);
                        if count == 1 {
                            (IpFragOffset::ZERO, false, &bytes[54..])
                        } else {
                            prop_assert_eq!(bytes[20], 44);
                            prop_assert_eq!(bytes[54], 17);
                            prop_assert_eq!(&bytes[58..62], id.to_be_bytes());
                            let word = u16::from_be_bytes([bytes[56], bytes[57]]);
                            (IpFragOffset::try_new(word >> 3).unwrap(), word & 1 == 1, &bytes[62..])
                        }
                    }
                    other => panic!("{other:?}"),
                };
                prop_assert_eq!(usize::from(offset.byte_offset()), udp.len());
                prop_assert_eq!(more, !is_last);
                prop_assert!(is_last || payload.len() % 8 == 0);
                udp.extend_from_slice(payload);
            }
            prop_assert_eq!(udp, whole);
        }

        #[test]
        fn another_implementation_reassembles_them(
            is_v6: bool, length in 2000_usize..9000, id: u32, encap in prop::sample::select(&ENCAPS[..])
        ) {
            let outer = outer(is_v6);
            let headers = headers(encap, 3, length);
            let frame: Vec<u8> = (0..length).map(|index| index as u8).collect();
            let mut pool = IpDefragPool::<(), ()>::new();
            let mut whole = None;
            for packet in outer.packets(headers, [&[], &frame], 1400, id).unwrap() {
                let bytes = [packet.header(), &frame[packet.body()]].concat();
                let sliced = SlicedPacket::from_ethernet(&bytes).unwrap();
                whole = pool.process_sliced_packet(&sliced, (), ()).unwrap();
            }
            let whole = whole.unwrap();
            prop_assert_eq!(whole.ip_number, etherparse::IpNumber::UDP);
            prop_assert_eq!(&whole.payload[headers.len()..], &frame[..]);
        }
    }

    #[test]
    fn a_datagram_that_just_fits_is_not_cut() {
        for (is_v6, encap) in [false, true].into_iter().flat_map(|is_v6| ENCAPS.map(|encap| (is_v6, encap))) {
            let outer = outer(is_v6);
            let fits = 1500 - outer.version().header_len() - 8 - encap.header_len();
            for (length, mtu, packets) in [(fits, 1500, 1), (fits + 1, 1500, 2), (0, 0, 1)] {
                let headers = headers(encap, 1, length);
                let count = outer.packets(headers, [&[], &vec![1; length]], mtu, 1).unwrap().count();
                assert_eq!(count, packets, "{encap:?}: {length} bytes, MTU {mtu}");
            }
        }
    }
}

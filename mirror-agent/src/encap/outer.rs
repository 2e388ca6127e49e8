//! The outer headers from Ethernet to IP, where the agent writes them itself: a template of what is the same
//! in every datagram to a sensor, patched for each.

use std::net::IpAddr;

use mirror_common::{checksum::Sum, ethernet, ip, udp};

use super::{encapsulation::Headers, fragment::Packets};

/// Bytes of an Ethernet header with no tag.
pub const ETHERNET_LEN: usize = ethernet::HEADER_LEN as usize;
/// Bytes of an IPv4 header with no options.
pub const IPV4_LEN: usize = 20;
/// Bytes of the longest template.
pub const LINK_MAX: usize = ETHERNET_LEN + ip::V6_HEADER_LEN;

/// Every IPv4 link takes packets of this size (RFC 791 section 3.2).
const MTU_MIN_V4: usize = 68;
/// Every IPv6 link takes packets of this size (RFC 8200 section 5).
const MTU_MIN_V6: usize = 1280;

/// 'Do not fragment', in the seventh byte of an IPv4 header (RFC 791 section 3.1).
const DONT_FRAGMENT: u8 = 0x40;

/// What a host sends with where nobody asked for another number (RFC 1700).
const HOPS: u8 = 64;

/// The Ethernet and IP headers of one destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outer {
    /// Ethernet and IP, with zeros where datagrams differ.
    link: [u8; LINK_MAX],
    version: Version,
}

/// Of the Internet Protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// RFC 791.
    V4,
    /// RFC 8200.
    V6,
}

impl Version {
    /// Bytes of the header, with no options or extensions.
    #[must_use]
    pub const fn header_len(self) -> usize {
        match self {
            Self::V4 => IPV4_LEN,
            Self::V6 => ip::V6_HEADER_LEN,
        }
    }

    /// The smallest MTU that a link may have.
    #[must_use]
    pub const fn mtu_min(self) -> usize {
        match self {
            Self::V4 => MTU_MIN_V4,
            Self::V6 => MTU_MIN_V6,
        }
    }

    /// The most bytes behind a UDP header.
    #[must_use]
    pub const fn payload_max(self) -> usize {
        match self {
            Self::V4 => udp::PAYLOAD_MAX_V4,
            Self::V6 => udp::PAYLOAD_MAX_V6,
        }
    }

    /// That of an address.
    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

impl Outer {
    /// Headers for datagrams from `source` to `destination`, as this agent makes them up. `None` where one
    /// address is IPv4 and the other IPv6.
    #[must_use]
    pub fn new(
        source_mac: [u8; 6],
        destination_mac: [u8; 6],
        source: IpAddr,
        destination: IpAddr,
    ) -> Option<Self> {
        let mut link = [0; LINK_MAX];
        link[..6].copy_from_slice(&destination_mac);
        link[6..12].copy_from_slice(&source_mac);
        let (kind, ip) = link[12..].split_at_mut(2);
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                kind.copy_from_slice(&ethernet::IPV4.to_be_bytes());
                // Version 4, five words of header; time to live; protocol.
                (ip[0], ip[8], ip[9]) = (0x45, HOPS, ip::UDP);
                ip[12..16].copy_from_slice(&source.octets());
                ip[16..20].copy_from_slice(&destination.octets());
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                kind.copy_from_slice(&ethernet::IPV6.to_be_bytes());
                // Version 6; next header; hop limit.
                (ip[0], ip[6], ip[7]) = (0x60, ip::UDP, HOPS);
                ip[8..24].copy_from_slice(&source.octets());
                ip[24..40].copy_from_slice(&destination.octets());
            }
            _ => return None,
        }
        Self::from_headers(&link)
    }

    /// Headers like those of a datagram that was sent before: `headers` are its Ethernet and IP headers,
    /// and may be followed by anything. `None` where they are not Ethernet II with no tag, then IPv4 with no
    /// options or IPv6, then UDP.
    #[must_use]
    pub fn from_headers(headers: &[u8]) -> Option<Self> {
        let kind = u16::from_be_bytes([*headers.get(12)?, *headers.get(13)?]);
        let mut link = [0; LINK_MAX];
        let version = match kind {
            ethernet::IPV4 => Version::V4,
            ethernet::IPV6 => Version::V6,
            _ => return None,
        };
        let length = ETHERNET_LEN + version.header_len();
        link[..length].copy_from_slice(headers.get(..length)?);
        let ip = &mut link[ETHERNET_LEN..];
        let is_plain = match version {
            Version::V4 => {
                // Length, identification, fragmentation but for 'do not'; the checksum.
                ip[2..6].fill(0);
                ip[6] &= DONT_FRAGMENT;
                ip[7] = 0;
                ip[10..12].fill(0);
                ip[0] == 0x45 && ip[9] == ip::UDP
            }
            Version::V6 => {
                ip[4..6].fill(0);
                ip[0] >> 4 == 6 && ip[6] == ip::UDP
            }
        };
        is_plain.then_some(Self { link, version })
    }

    /// IPv4 or IPv6.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// The source address.
    #[must_use]
    pub fn source(&self) -> IpAddr {
        self.address(0)
    }

    /// The destination address.
    #[must_use]
    pub fn destination(&self) -> IpAddr {
        self.address(1)
    }

    /// The MAC address that datagrams are for.
    #[must_use]
    pub fn destination_mac(&self) -> [u8; 6] {
        let [a, b, c, d, e, f, ..] = self.link;
        [a, b, c, d, e, f]
    }

    /// The datagram with a frame, which lies in two parts, as packets of at most `mtu` bytes of IP. `headers` are those
    /// in front of it. The first part has an even number of bytes, unless the second has none. An `mtu` below what the
    /// protocol allows counts as the smallest allowed. `id` tells the fragments of this datagram from others'.
    ///
    /// `None` where the frame is too long for a datagram.
    #[must_use]
    pub fn packets<'a>(
        &'a self,
        mut headers: Headers,
        frame: [&[u8]; 2],
        mtu: usize,
        id: u32,
    ) -> Option<Packets<'a>> {
        let length = frame[0].len() + frame[1].len();
        if headers.len() + length > udp::HEADER_LEN + self.version.payload_max() {
            return None;
        }
        if self.version == Version::V6 {
            let checksum = self.udp_checksum(&headers, frame);
            headers.set_udp_checksum(checksum);
        }
        Some(Packets::new(self, headers, length, mtu.max(self.version.mtu_min()), id))
    }

    /// Bytes in front of UDP, with zeros where datagrams differ.
    pub(super) fn link(&self) -> &[u8] {
        &self.link[..ETHERNET_LEN + self.version.header_len()]
    }

    /// RFC 8200 section 8.1: over a pseudo-header and the datagram. 0 is sent as all ones, because 0 says
    /// that there is none.
    fn udp_checksum(&self, headers: &[u8], frame: [&[u8]; 2]) -> u16 {
        let addresses = &self.link[ETHERNET_LEN + 8..ETHERNET_LEN + ip::V6_HEADER_LEN];
        // At most 65,535: `packets` has looked.
        let length = (headers.len() + frame[0].len() + frame[1].len()) as u16;
        let sum = Sum::new().with(addresses).with_number(length).with_number(u16::from(ip::UDP));
        match sum.with(headers).with(frame[0]).with(frame[1]).checksum() {
            0 => 0xffff,
            checksum => checksum,
        }
    }

    /// The address at `index` of the two.
    fn address(&self, index: usize) -> IpAddr {
        let ip = &self.link[ETHERNET_LEN..];
        match self.version {
            Version::V4 => {
                let mut octets = [0; 4];
                octets.copy_from_slice(&ip[12 + 4 * index..][..4]);
                octets.into()
            }
            Version::V6 => {
                let mut octets = [0; 16];
                octets.copy_from_slice(&ip[8 + 16 * index..][..16]);
                octets.into()
            }
        }
    }
}

/// Numbers for datagrams, by which a receiver tells the fragments of one from those of another. Threads
/// that send between the same addresses never have the same number at a time.
#[derive(Clone, Copy, Debug)]
pub struct Ids {
    next: u32,
    step: u32,
}

impl Ids {
    /// The numbers of thread `index` of `threads`, from `start` on.
    #[must_use]
    pub fn new(index: u32, threads: u32, start: u32) -> Self {
        // A power of two goes into 2^16 without a remainder, so that the threads' numbers stay apart
        // also after they have wrapped.
        let step = threads.clamp(1, 1 << 15).next_power_of_two();
        Self { next: (start & !(step - 1)) | (index & (step - 1)), step }
    }

    /// The next number. IPv4 uses its lower half.
    pub fn draw(&mut self) -> u32 {
        let id = self.next;
        self.next = id.wrapping_add(self.step);
        id
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::net::SocketAddr;

    use etherparse::{SlicedPacket, TransportSlice};
    use mirror_common::record::RecordHeader;

    use super::*;
    use crate::{encap::encapsulation::Encapsulation, source::Frame};

    const MACS: ([u8; 6], [u8; 6]) = ([2, 0, 0, 0, 0x20, 1], [2, 0, 0, 0, 0x20, 2]);

    fn outer(source: &str, destination: &str) -> Outer {
        let destination: SocketAddr = destination.parse().unwrap();
        Outer::new(MACS.0, MACS.1, source.parse().unwrap(), destination.ip()).unwrap()
    }

    fn headers(port: u16, frame: &[u8]) -> Headers {
        let header = RecordHeader { flow_hash: 0x1_0003, ..RecordHeader::default() };
        Encapsulation::vxlan(port, 4242).headers(&Frame::whole(&header, frame))
    }

    fn datagram(outer: &Outer, port: u16, frame: &[u8]) -> Vec<u8> {
        let headers = headers(port, frame);
        let mut packets = outer.packets(headers, [&[], frame], 9000, 0xabcd_1234).unwrap();
        let packet = packets.next().unwrap();
        assert!(packets.next().is_none());
        [packet.header(), &frame[packet.body()]].concat()
    }

    #[test]
    fn ipv4_headers_are_in_wire_order() {
        let bytes = datagram(&outer("10.20.0.1", "10.20.0.2:4789"), 4789, b"frame");
        let expected = [
            &[2, 0, 0, 0, 0x20, 2, 2, 0, 0, 0, 0x20, 1, 8, 0][..],
            &[0x45, 0, 0, 41, 0x12, 0x34, 0, 0, 64, 17, 0x54, 0x66, 10, 20, 0, 1, 10, 20, 0, 2],
            &[0xc0, 3, 0x12, 0xb5, 0, 21, 0, 0],
            &[8, 0, 0, 0, 0, 0x10, 0x92, 0],
            b"frame",
        ];
        assert_eq!(bytes, expected.concat());
    }

    #[test]
    fn another_parser_reads_the_same() {
        for (source, destination) in
            [("10.20.0.1", "10.20.0.2:4789"), ("fd20::1", "[fd20::2]:4789"), ("fd20::1", "[fd20::2]:1")]
        {
            for length in [0_u8, 1, 2, 63, 200] {
                let outer = outer(source, destination);
                let frame: Vec<u8> = (0..length).collect();
                let port = destination.parse::<SocketAddr>().unwrap().port();
                let bytes = datagram(&outer, port, &frame);
                let packet = SlicedPacket::from_ethernet(&bytes).unwrap();
                let Some(TransportSlice::Udp(udp)) = packet.transport else { panic!("no UDP") };
                assert_eq!(udp.source_port(), 49155);
                assert_eq!(udp.destination_port(), port);
                assert_eq!(mirror_common::vxlan::decapsulate(udp.payload()), Some((4242, &frame[..])));
                match packet.net.unwrap() {
                    etherparse::NetSlice::Ipv4(ip) => {
                        let header = ip.header().to_header();
                        assert_eq!(header.header_checksum, header.calc_header_checksum());
                        assert_eq!(udp.checksum(), 0, "RFC 7348 section 5");
                    }
                    etherparse::NetSlice::Ipv6(ip) => {
                        let expected = udp
                            .to_header()
                            .calc_checksum_ipv6(&ip.header().to_header(), udp.payload())
                            .unwrap();
                        assert_eq!(udp.checksum(), expected);
                    }
                    other => panic!("{other:?}"),
                }
                assert_eq!(outer.source(), source.parse::<IpAddr>().unwrap());
                assert_eq!(outer.destination(), destination.parse::<SocketAddr>().unwrap().ip());
                assert_eq!(outer.destination_mac(), MACS.1);
            }
        }
    }

    #[test]
    fn learnt_headers_are_the_same_again() {
        for (source, destination) in [("10.20.0.1", "10.20.0.2:4789"), ("fd20::1", "[fd20::2]:4789")] {
            let outer = outer(source, destination);
            let bytes = datagram(&outer, 4789, b"any frame");
            assert_eq!(Outer::from_headers(&bytes), Some(outer.clone()));
            for cut in 0..ETHERNET_LEN + outer.version().header_len() {
                assert_eq!(Outer::from_headers(&bytes[..cut]), None, "{cut} bytes");
            }
            let mut other = bytes;
            other[13] ^= 1;
            assert_eq!(Outer::from_headers(&other), None, "another type");
        }
        assert!(Outer::new(MACS.0, MACS.1, [1, 2, 3, 4].into(), "::1".parse().unwrap()).is_none());
    }

    #[test]
    fn frames_that_no_datagram_holds_are_refused() {
        for (source, destination, longest) in
            [("10.0.0.1", "10.0.0.2:1", 65_535 - 36), ("fd20::1", "[fd20::2]:1", 65_535 - 16)]
        {
            let outer = outer(source, destination);
            for (length, is_taken) in [(longest, true), (longest + 1, false)] {
                let frame = vec![0; length];
                let headers = headers(1, &frame[..longest]);
                assert_eq!(outer.packets(headers, [&[], &frame], 1500, 0).is_some(), is_taken);
            }
        }
    }

    #[test]
    fn threads_numbers_stay_apart() {
        let mut threads = [0, 1, 2].map(|index| Ids::new(index, 3, 0xffff_fff3));
        let numbers: Vec<u16> = (0..3 * 0x4000).map(|turn| threads[turn % 3].draw() as u16).collect();
        let mut sorted = numbers.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), numbers.len());
    }
}

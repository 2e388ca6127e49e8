//! The header parser against frames that another library builds.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use etherparse::{
    EtherType, IpFragOffset, IpNumber, Ipv4Header, Ipv6FragmentHeader, Ipv6Header, PacketBuilder, VlanId,
};
use mirror_common::{
    ethernet, flow,
    headers::{Headers, Part},
    ip,
};
use proptest::prelude::*;

const MACS: ([u8; 6], [u8; 6]) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
const V4: ([u8; 4], [u8; 4]) = ([10, 0, 0, 1], [192, 168, 7, 9]);
const V6: ([u8; 16], [u8; 16]) = ([0xfd; 16], [0xfe, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);

fn words(address: [u8; 16]) -> ip::Address {
    std::array::from_fn(|i| u32::from_be_bytes(address[i * 4..][..4].try_into().unwrap()))
}

fn udp_v4(from: ([u8; 4], u16), to: ([u8; 4], u16)) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(MACS.0, MACS.1).ipv4(from.0, to.0, 64).udp(from.1, to.1);
    builder.write(&mut frame, b"payload").unwrap();
    frame
}

/// An Ethernet frame with `headers` behind `ethertype`.
fn ethernet(ethertype: u16, headers: &[u8]) -> Vec<u8> {
    [&MACS.1[..], &MACS.0, &ethertype.to_be_bytes(), headers].concat()
}

/// An IPv6 header, the extension headers (type and bytes, the first byte being set here), and payload.
fn v6_with(extensions: &[(u8, Vec<u8>)], last: u8, payload: &[u8]) -> Vec<u8> {
    let mut types: Vec<u8> = extensions.iter().map(|(kind, _)| *kind).collect();
    types.push(last);
    let mut body = Vec::new();
    for ((_, bytes), next) in extensions.iter().zip(&types[1..]) {
        body.push(*next);
        body.extend_from_slice(&bytes[1..]);
    }
    body.extend_from_slice(payload);
    let header = Ipv6Header {
        payload_length: body.len() as u16,
        next_header: IpNumber(types[0]),
        hop_limit: 64,
        source: V6.0,
        destination: V6.1,
        ..Ipv6Header::default()
    };
    ethernet(ethernet::IPV6, &[&header.to_bytes()[..], &body].concat())
}

/// An extension header of `units` times 8 bytes.
fn extension(units: u8) -> Vec<u8> {
    let mut bytes = vec![0; usize::from(units) * 8];
    bytes[1] = units - 1;
    bytes
}

fn fragment(offset: u16, more: bool, id: u32) -> Vec<u8> {
    let offset = IpFragOffset::try_new(offset).unwrap();
    Ipv6FragmentHeader::new(IpNumber(0), offset, more, id).to_bytes().to_vec()
}

const PORTS: [u8; 8] = [0x04, 0xd2, 0x00, 0x50, 0, 8, 0, 0];

#[test]
fn reads_ports_behind_every_transport_that_has_them() {
    for protocol in [ip::TCP, ip::UDP, ip::SCTP, ip::DCCP, ip::UDP_LITE] {
        let header = Ipv4Header::new(8, 64, IpNumber(protocol), V4.0, V4.1).unwrap();
        let frame = ethernet(ethernet::IPV4, &[&header.to_bytes()[..], &PORTS].concat());
        let headers = Headers::of(&frame[..]);
        assert_eq!((headers.source_port, headers.destination_port), (1234, 80), "protocol {protocol}");
        assert_eq!((headers.protocol, headers.at, headers.is_ip), (protocol, 34, true));
    }
    for protocol in [ip::ICMP, 47, 50] {
        let header = Ipv4Header::new(8, 64, IpNumber(protocol), V4.0, V4.1).unwrap();
        let frame = ethernet(ethernet::IPV4, &[&header.to_bytes()[..], &PORTS].concat());
        let headers = Headers::of(&frame[..]);
        assert_eq!((headers.source_port, headers.destination_port), (0, 0), "protocol {protocol}");
    }
}

#[test]
fn reads_v4_options() {
    let mut header = Ipv4Header::new(8, 64, IpNumber::UDP, V4.0, V4.1).unwrap();
    header.options = [1; 40].into();
    let frame = ethernet(ethernet::IPV4, &[&header.to_bytes()[..], &PORTS].concat());
    let headers = Headers::of(&frame[..]);
    assert_eq!((headers.source_port, headers.at), (1234, 14 + 60));
}

#[test]
fn looks_through_vlan_tags() {
    let plain = udp_v4((V4.0, 1), (V4.1, 2));
    for (tags, at) in [
        (&[ethernet::VLAN][..], 38),
        (&[ethernet::SERVICE_VLAN, ethernet::VLAN], 42),
        (&[ethernet::OLD_QINQ, ethernet::OLD_QINQ, ethernet::SERVICE_VLAN, ethernet::VLAN], 50),
    ] {
        let mut frame = plain[..12].to_vec();
        for tag in tags {
            frame.extend_from_slice(&[tag.to_be_bytes(), [0x20, 100]].concat());
        }
        frame.extend_from_slice(&plain[12..]);
        let headers = Headers::of(&frame[..]);
        assert_eq!((headers.ethertype, headers.at, headers.destination_port), (ethernet::IPV4, at, 2));
        assert_eq!(flow::hash(&headers), flow::hash(&Headers::of(&plain[..])), "the tag does not count");
    }
    let built = {
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2(MACS.0, MACS.1)
            .double_vlan(VlanId::try_new(7).unwrap(), VlanId::try_new(8).unwrap())
            .ipv6(V6.0, V6.1, 64)
            .tcp(5, 6, 0, 0);
        builder.write(&mut frame, &[]).unwrap();
        frame
    };
    let headers = Headers::of(&built[..]);
    assert_eq!((headers.source, headers.destination), (words(V6.0), words(V6.1)));
    assert_eq!((headers.source_port, headers.destination_port, headers.protocol), (5, 6, ip::TCP));
}

#[test]
fn five_tags_are_a_type_of_their_own() {
    let mut frame = udp_v4((V4.0, 1), (V4.1, 2))[..12].to_vec();
    for _ in 0..6 {
        frame.extend_from_slice(&[0x81, 0, 0, 1]);
    }
    let headers = Headers::of(&frame[..]);
    assert_eq!((headers.ethertype, headers.is_ip), (ethernet::VLAN, false));
}

#[test]
fn looks_through_v6_extension_headers() {
    let authentication = {
        // Counted in words, less two: 24 bytes.
        let mut bytes = vec![0; 24];
        bytes[1] = 4;
        bytes
    };
    let all = [
        (ip::HOP_BY_HOP, extension(1)),
        (ip::DESTINATION_OPTIONS, extension(3)),
        (ip::ROUTING, extension(2)),
        (ip::AUTHENTICATION, authentication),
        (ip::MOBILITY, extension(1)),
        (ip::HOST_IDENTITY, extension(1)),
        (ip::SHIM6, extension(1)),
    ];
    for count in 0..=all.len() {
        let length: usize = all[..count].iter().map(|(_, bytes)| bytes.len()).sum();
        let headers = Headers::of(&v6_with(&all[..count], ip::UDP, &PORTS)[..]);
        assert_eq!(headers.protocol, ip::UDP, "behind {count}");
        assert_eq!((headers.source_port, headers.at), (1234, 54 + length as u32), "behind {count}");
    }
    let cut = v6_with(&all[..3], ip::UDP, &PORTS);
    let headers = Headers::of(&cut[..54 + 8 + 1]);
    assert_eq!((headers.protocol, headers.source_port), (ip::DESTINATION_OPTIONS, 0));
}

#[test]
fn fragments_name_their_datagram() {
    let v4 = |offset: u16, more: bool| {
        let mut header = Ipv4Header::new(8, 64, IpNumber::UDP, V4.0, V4.1).unwrap();
        header.identification = 0xabcd;
        header.fragment_offset = IpFragOffset::try_new(offset).unwrap();
        header.more_fragments = more;
        Headers::of(&ethernet(ethernet::IPV4, &[&header.to_bytes()[..], &PORTS].concat())[..])
    };
    let v6 = |offset, more| {
        let extensions =
            [(ip::HOP_BY_HOP, extension(1)), (ip::FRAGMENT, fragment(offset, more, 0x1234_abcd))];
        Headers::of(&v6_with(&extensions, ip::UDP, &PORTS)[..])
    };
    for (first, last, id) in
        [(v4(0, true), v4(185, false), 0xabcd), (v6(0, true), v6(185, false), 0x1234_abcd)]
    {
        assert_eq!((first.part, first.fragment_id, first.source_port), (Part::First, id, 1234));
        assert_eq!((last.part, last.fragment_id, last.source_port), (Part::Later, id, 0));
        assert_eq!(flow::datagram(&first), flow::datagram(&last));
        assert_eq!(first.protocol, last.protocol);
    }
    assert_eq!(v4(0, false).part, Part::Whole);
    let atomic = v6(0, false);
    assert_eq!((atomic.part, atomic.fragment_id, atomic.source_port), (Part::Whole, 0, 1234));
    assert_ne!(flow::datagram(&v4(0, true)), flow::datagram(&v6(0, true)));
}

#[test]
fn finds_what_an_icmp_error_quotes() {
    let inner = &udp_v4((V4.0, 50_000), (V4.1, 4789))[14..];
    for (kind, quotes) in [(0, false), (3, true), (8, false), (11, true), (12, true)] {
        let header = Ipv4Header::new(8 + inner.len() as u16, 64, IpNumber::ICMP, V4.1, V4.0).unwrap();
        let message = [&header.to_bytes()[..], &[kind, 3, 0, 0, 0, 0, 0, 0], inner].concat();
        let frame = ethernet(ethernet::IPV4, &message);
        let mut headers = Headers::of(&frame[..]);
        let at = headers.quote(&frame[..]);
        assert_eq!(at, if quotes { 42 } else { 0 }, "type {kind}");
        if quotes {
            assert!(headers.read_quoted(&frame[..], at));
            assert_eq!((headers.source_port, headers.destination_port), (50_000, 4789));
            assert_eq!(headers.source, ip::mapped(u32::from_be_bytes(V4.0)));
        }
    }
    let v6 = &v6_with(&[], ip::UDP, &PORTS)[14..];
    let frame = v6_with(&[], ip::ICMPV6, &[&[1, 4, 0, 0, 0, 0, 0, 0], v6].concat());
    let mut headers = Headers::of(&frame[..]);
    assert!(headers.read_quoted(&frame[..], headers.quote(&frame[..])));
    assert_eq!((headers.source_port, headers.destination_port), (1234, 80));
}

#[test]
fn what_is_not_ip_has_the_flow_of_its_stations() {
    let arp = ethernet(0x0806, &[0; 28]);
    let headers = Headers::of(&arp[..]);
    assert_eq!((headers.is_ip, headers.ethertype), (false, 0x0806));
    assert_eq!(headers.source, [0, 0, 0x0200_0000, 1]);
    assert_eq!(headers.destination, [0, 0, 0x0200_0000, 2]);
    let mut answer = arp.clone();
    answer[..12].rotate_left(6);
    assert_eq!(flow::hash(&headers), flow::hash(&Headers::of(&answer[..])));
    let other_type = Headers::of(&ethernet(0x88cc, &[0; 28])[..]);
    assert_ne!(flow::hash(&headers), flow::hash(&other_type));
    let length = |length| flow::hash(&Headers::of(&ethernet(length, &[0x42; 28])[..]));
    assert_eq!(length(28), length(0x5ff), "802.3 frames of one flow differ in length");
    assert_ne!(length(28), length(0x600));
    // A type says IP, the header does not.
    let broken = Headers::of(&ethernet(ethernet::IPV4, &[0x65; 28])[..]);
    assert_eq!((broken.is_ip, broken.source), (false, [0, 0, 0x0200_0000, 1]));
    for length in 0..14 {
        assert_eq!(Headers::of(&arp[..length]), Headers::NONE, "{length} bytes");
    }
}

#[test]
fn connections_spread_over_source_ports_and_rings() {
    let (mut ports, mut rings) = (std::collections::HashSet::new(), [0_u32; 4]);
    for client_port in 0..4000 {
        let frame = udp_v4((V4.0, 20_000 + client_port), (V4.1, 443));
        let hash = flow::hash(&Headers::of(&frame[..]));
        let port = flow::source_port(hash);
        assert!(port >= 49152);
        ports.insert(port);
        rings[flow::ring(hash, 4) as usize] += 1;
    }
    // 4000 balls into 16384 bins leave about 3550 bins hit.
    assert!(ports.len() > 3450, "{} ports", ports.len());
    assert!(rings.iter().all(|&ring| (900..=1100).contains(&ring)), "{rings:?}");
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut headers = Headers::of(&bytes[..]);
        let quote = headers.quote(&bytes[..]);
        if quote != 0 {
            headers.read_quoted(&bytes[..], quote);
        }
    }

    /// Bytes that are likely to be headers, cut anywhere.
    #[test]
    fn mutated_headers_are_read_without_a_panic(
        kind in 0_usize..4,
        changes in proptest::collection::vec((0_usize..120, any::<u8>()), 0..4),
        length in 0_usize..120,
    ) {
        let mut frame = match kind {
            0 => udp_v4((V4.0, 1), (V4.1, 2)),
            1 => v6_with(&[(ip::HOP_BY_HOP, extension(1)), (ip::FRAGMENT, fragment(0, true, 1))], ip::UDP, &PORTS),
            2 => v6_with(&[(ip::ROUTING, extension(2)), (ip::AUTHENTICATION, extension(3))], ip::TCP, &PORTS),
            _ => ethernet(ethernet::VLAN, &[&[0, 1, 0x08, 0][..], &udp_v4((V4.0, 1), (V4.1, 2))[14..]].concat()),
        };
        for (at, value) in changes {
            if let Some(byte) = frame.get_mut(at) {
                *byte = value;
            }
        }
        frame.truncate(length);
        let headers = Headers::of(&frame[..]);
        prop_assert!(headers.is_ip || headers.source_port == 0);
        prop_assert!(headers.part == Part::Whole || headers.is_ip);
    }

    #[test]
    fn both_directions_have_one_number(
        a in any::<[u8; 4]>(), b in any::<[u8; 4]>(), p in any::<u16>(), q in any::<u16>(),
    ) {
        let there = Headers::of(&udp_v4((a, p), (b, q))[..]);
        let back = Headers::of(&udp_v4((b, q), (a, p))[..]);
        prop_assert_eq!(flow::hash(&there), flow::hash(&back));
        prop_assert_eq!(there.source, ip::mapped(u32::from_be_bytes(a)));
        prop_assert_eq!((there.source_port, there.destination_port), (p, q));
        // Crossed ports are another connection.
        if a != b && p != q {
            let crossed = Headers::of(&udp_v4((a, q), (b, p))[..]);
            prop_assert_ne!(flow::hash(&there), flow::hash(&crossed));
        }
    }

    #[test]
    fn v6_both_directions_have_one_number(
        a in any::<[u8; 16]>(), b in any::<[u8; 16]>(), p in any::<u16>(), q in any::<u16>(),
    ) {
        let tcp = |from: ([u8; 16], u16), to: ([u8; 16], u16)| {
            let mut frame = Vec::new();
            let builder =
                PacketBuilder::ethernet2(MACS.0, MACS.1).ipv6(from.0, to.0, 64).tcp(from.1, to.1, 0, 0);
            builder.write(&mut frame, &[]).unwrap();
            Headers::of(&frame[..])
        };
        let (there, back) = (tcp((a, p), (b, q)), tcp((b, q), (a, p)));
        prop_assert_eq!(flow::hash(&there), flow::hash(&back));
        prop_assert_eq!((there.source, there.destination), (words(a), words(b)));
    }

    #[test]
    fn a_source_port_belongs_to_one_ring(hash in any::<u32>(), rings in 1_u32..=16) {
        let port = flow::source_port(hash);
        prop_assert!(port >= flow::SOURCE_PORT_FIRST);
        let ring = flow::ring(hash, rings);
        prop_assert!(ring < rings);
        prop_assert_eq!(ring, flow::ring(u32::from(port - flow::SOURCE_PORT_FIRST), rings));
    }
}

/// `EtherType` of the builder and the constants here are the same numbers.
#[test]
fn types_are_those_that_others_use() {
    assert_eq!(EtherType::IPV4.0, ethernet::IPV4);
    assert_eq!(EtherType::IPV6.0, ethernet::IPV6);
    assert_eq!(EtherType::VLAN_TAGGED_FRAME.0, ethernet::VLAN);
    assert_eq!(EtherType::PROVIDER_BRIDGING.0, ethernet::SERVICE_VLAN);
    assert_eq!(EtherType::VLAN_DOUBLE_TAGGED_FRAME.0, ethernet::OLD_QINQ);
}

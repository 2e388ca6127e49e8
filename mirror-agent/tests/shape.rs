//! Super-frames become the frames that are on the wire. The kernel's own cutting is compared in
//! `kernel_segments.rs`.
#![allow(clippy::unwrap_used, reason = "tests")]

mod super_frames;

use mirror_agent::shape::Cut;
use mirror_common::record::{ChecksumPlace, RecordHeader, Segmentation};
use proptest::prelude::*;
use super_frames::{
    ACK, CWR, ECE, FIN, PSH, Stack,
    check::{reassemble, take_apart},
    cut, payload,
    random::{self, Dice},
    tcp, udp,
};

#[test]
fn an_ordinary_frame_goes_as_it_is() {
    let frame = tcp(1, ACK, &[], b"payload").v4(6, 1, 0, &[]).ethernet(0x0800);
    let header = RecordHeader { checksum: 0, ..frame.header(Segmentation::None, 0) };
    assert!(Cut::of(&header, &frame.bytes).is_none());
}

#[test]
fn flags_of_tcp_are_where_they_belong() {
    let frame =
        tcp(u32::MAX - 99, FIN | PSH | CWR | ECE | ACK, &[], &payload(250)).v4(6, 0xffff, 0x4000, &[]);
    let frames = frame.ethernet(0x0800).cut(Segmentation::Tcp, 100);
    let parts: Vec<_> = frames.iter().map(|frame| take_apart(frame)).collect();
    let flags: Vec<u8> = parts.iter().map(|part| part.header[13]).collect();
    assert_eq!(flags, [CWR | ECE | ACK, ECE | ACK, FIN | PSH | ECE | ACK]);
    assert_eq!(parts.iter().map(|part| part.id).collect::<Vec<_>>(), [0xffff, 0, 1], "identifications wrap");
    assert_eq!(reassemble(&frames, 100), payload(250), "sequence numbers wrap");
}

#[test]
fn merged_segments_may_share_an_identification() {
    let frame = tcp(1, ACK, &[], &payload(250)).v4(6, 7, 0x4000, &[]).ethernet(0x0800);
    for frame in frame.cut(Segmentation::TcpFixedId, 100) {
        assert_eq!(take_apart(&frame).id, 7);
    }
}

#[test]
fn one_segment_keeps_its_flags() {
    let frame = tcp(1, FIN | PSH | CWR, &[], &payload(100)).v6(6, &[]).ethernet(0x86dd);
    let [segment] = &frame.cut(Segmentation::Tcp, 100)[..] else { panic!("more than one") };
    assert_eq!(take_apart(segment).header[13], FIN | PSH | CWR);
}

#[test]
fn datagrams_without_a_checksum_get_none() {
    let mut frame = udp(&payload(250)).v4(17, 1, 0, &[]).ethernet(0x0800);
    frame.bytes[34 + 6..34 + 8].fill(0);
    let mut header = frame.header(Segmentation::Udp, 100);
    assert!(cut(&header, &frame.bytes).unwrap().iter().all(|frame| take_apart(frame).header[6..] != [0, 0]));
    header.checksum = 0;
    let frames = cut(&header, &frame.bytes).unwrap();
    assert!(frames.iter().all(|frame| take_apart(frame).header[6..] == [0, 0]));
    assert_eq!(reassemble(&frames, 100), payload(250));
}

#[test]
fn what_was_merged_needs_no_place_of_a_checksum() {
    for stack in [
        tcp(1, ACK, &[], &payload(250)).v4(6, 1, 0, &[]).ethernet(0x0800),
        tcp(1, ACK, &[], &payload(250))
            .v4(6, 1, 0, &[])
            .ethernet(0x0800)
            .vxlan(0)
            .v6(17, &[])
            .ethernet(0x86dd),
        tcp(1, ACK, &[], &payload(250)).v4(6, 1, 0, &[]).geneve(0x0800, 3, 5).v6(17, &[]).ethernet(0x86dd),
    ] {
        let header = RecordHeader { checksum: 0, ..stack.header(Segmentation::Tcp, 100) };
        assert_eq!(reassemble(&cut(&header, &stack.bytes).unwrap(), 100), payload(250));
    }
}

#[test]
fn tunnels_on_other_ports_are_found_by_the_place_of_the_checksum() {
    let inner = tcp(1, ACK, &[], &payload(250)).v4(6, 1, 0, &[]);
    let udp_at = 14 + 40;
    let mut vxlan = inner.ethernet(0x0800).vxlan(0).v6(17, &[]).ethernet(0x86dd);
    vxlan.bytes[udp_at + 2..udp_at + 4].copy_from_slice(&12345_u16.to_be_bytes());
    let mut frames = vxlan.cut(Segmentation::Tcp, 100);
    for frame in &mut frames {
        frame[udp_at + 2..udp_at + 4].copy_from_slice(&4789_u16.to_be_bytes());
    }
    assert_eq!(reassemble(&frames, 100), payload(250));
    let bare = super_frames::udp_around(&inner, 5555, 1).v4(17, 9, 0, &[]).ethernet(0x0800);
    assert_eq!(reassemble(&bare.cut(Segmentation::Tcp, 100), 100), payload(250), "IP right behind UDP");
}

#[test]
fn datagrams_of_a_tunnel_are_not_taken_for_what_they_carry() {
    // A sender of VXLAN that hands over runs of datagrams, as this agent does.
    let inner = udp(&payload(1000)).v4(17, 1, 0, &[]).ethernet(0x0800);
    let outer = udp(&inner.behind(&[8, 0, 0, 0, 0, 0, 1, 0]).bytes).v4(17, 1, 0, &[]).ethernet(0x0800);
    let frames = outer.cut(Segmentation::Udp, 100);
    assert_eq!(frames.len(), (1000 + 8 + 20 + 14 + 8_usize).div_ceil(100));
    assert_eq!(reassemble(&frames, 100), inner.behind(&[8, 0, 0, 0, 0, 0, 1, 0]).bytes);
}

#[test]
fn padding_is_not_summed_and_stays() {
    let mut frame = udp(b"odd").v4(17, 1, 0, &[]).ethernet(0x0800);
    let header = frame.header(Segmentation::None, 0);
    let length = frame.bytes.len();
    frame.bytes.extend([0xff; 15]);
    let header = RecordHeader { original_len: frame.bytes.len() as u32, ..header };
    let [whole] = &cut(&header, &frame.bytes).unwrap()[..] else { panic!("more than one") };
    take_apart(&whole[..length]);
    assert_eq!(whole[length..], [0xff; 15]);
    let mut unlike = whole.clone();
    unlike[40..42].copy_from_slice(&frame.bytes[40..42]);
    assert_eq!(unlike, frame.bytes, "nothing but the checksum is touched");
}

#[test]
fn a_checksum_that_is_wrong_stays_wrong() {
    let mut frame = tcp(1, ACK, &[], b"payload").v4(6, 1, 0, &[]).ethernet(0x0800);
    frame.bytes[24] ^= 0x55;
    let header = frame.header(Segmentation::None, 0);
    let whole = cut(&header, &frame.bytes).unwrap().remove(0);
    assert_eq!(whole[..50], frame.bytes[..50], "the IPv4 header checksum is not looked at");
    frame.bytes[50] ^= 1;
    let other = cut(&header, &frame.bytes).unwrap().remove(0);
    assert_ne!(whole[50..52], other[50..52], "a wrong seed gives a wrong checksum");
}

#[test]
fn what_is_summed_need_not_be_understood() {
    // MPLS, and UDP in it. The kernel sums from the place to the end.
    let stack = udp(b"12345").v4(17, 1, 0, &[]);
    let frame = stack.behind(&[0, 0, 0x11, 0x3f]).ethernet(0x8847);
    let whole = frame.cut(Segmentation::None, 0).remove(0);
    take_apart(&[&whole[..12], &[8, 0], &whole[18..]].concat());
}

#[test]
fn sctp_has_a_sum_of_its_own() {
    let mut sctp = Stack::plain(&[0x10, 0x92, 0x10, 0x92, 0, 0, 0, 1, 0, 0, 0, 0, 3, 0, 0, 5, 1, 0, 0, 0]);
    sctp = sctp.v6(132, &[]).ethernet(0x86dd);
    let checksum = ChecksumPlace { start: 54, field: 8 }.packed();
    let header = RecordHeader { checksum, ..sctp.header(Segmentation::None, 0) };
    let whole = cut(&header, &sctp.bytes).unwrap().remove(0);
    // By the bitwise algorithm of RFC 9260 appendix A, in another language.
    assert_eq!(whole[62..66], [0xd8, 0x31, 0x3d, 0xb4]);
    assert_eq!([&whole[..62], &[0; 4], &whole[66..]].concat(), sctp.bytes);
}

#[test]
fn fragments_make_the_datagram_again() {
    for (length, size) in [(9000, 1480), (9000, 1483), (1473, 1480), (1472, 1472), (8, 8), (65_000, 1448)] {
        let datagram = udp(&payload(length));
        for (stack, version) in [
            (datagram.v4(17, 0xffff, 0x4000, &[]).ethernet(0x0800), 4),
            (
                datagram
                    .v4(17, 0xffff, 0, &[0x94, 4, 0, 0])
                    .ethernet(0x0800)
                    .vxlan(1)
                    .v6(17, &[])
                    .ethernet(0x86dd),
                4,
            ),
            (datagram.v6(17, &[]).tagged(&[(0x8100, 5)], 0x86dd), 6),
            (datagram.v6(17, &[(0, &[1, 4, 0, 0, 0, 0]), (60, &[1, 4, 0, 0, 0, 0])]).ethernet(0x86dd), 6),
        ] {
            let frames = stack.cut(Segmentation::Fragments, size);
            assert_eq!(frames.len(), (length + 8).div_ceil(usize::from(size & !7)));
            let parts: Vec<_> = frames.iter().map(|frame| take_apart(frame)).collect();
            let mut bytes = Vec::new();
            for (number, part) in parts.iter().enumerate() {
                let units = (bytes.len() / 8) as u16;
                let more = u16::from(number + 1 < parts.len());
                let place = if version == 4 { units | more << 13 } else { units << 3 | more };
                assert_eq!((part.version, part.place, part.id), (version, place, parts[0].id));
                bytes.extend(&part.payload);
            }
            assert_eq!(bytes[8..], payload(length));
            let addresses = if version == 4 { &super_frames::V4[..] } else { &super_frames::V6 };
            let length = (bytes.len() as u32).to_be_bytes();
            let all = [addresses, &[0, 17], &length, &bytes].concat();
            assert_eq!(super_frames::naive(&all), 0xffff, "checksum");
        }
    }
}

#[test]
fn what_cannot_be_cut_goes_as_it_is() {
    let good = tcp(1, ACK, &[], &payload(250)).v4(6, 1, 0, &[]).ethernet(0x0800);
    let header = good.header(Segmentation::Tcp, 100);
    let refuses = |header: RecordHeader, bytes: &[u8]| assert!(Cut::of(&header, bytes).is_none());
    refuses(RecordHeader { original_len: 305, ..header }, &good.bytes);
    refuses(RecordHeader { segmentation: 5, ..header }, &good.bytes);
    refuses(RecordHeader { segmentation: 2, ..header }, &good.bytes);
    refuses(
        RecordHeader { checksum: ChecksumPlace { start: 36, field: 16 }.packed(), ..header },
        &good.bytes,
    );
    let completed = RecordHeader { segmentation: 0, gso_size: 0, ..header };
    for place in [(35, 16), (302, 2), (304, 0), (600, 6), (4095, 30)] {
        let checksum = ChecksumPlace { start: place.0, field: place.1 }.packed();
        let result = Cut::of(&RecordHeader { checksum, ..completed }, &good.bytes);
        assert_eq!(result.is_some(), place.0 == 302 && place.1 == 0, "{place:?}");
    }
    for length in 0..54 {
        let original_len = length as u32;
        refuses(RecordHeader { original_len, ..header }, &good.bytes[..length]);
    }
    // A fragment, another type, no length of the TCP header.
    for (at, value) in [(20, 0x20), (13, 1), (46, 0x40), (14, 0x44), (14, 0x65), (23, 50)] {
        let mut bytes = good.bytes.clone();
        bytes[at] = value;
        refuses(header, &bytes);
    }
    let long = good.tagged(&[(0x8100, 1); 150], 0x6558);
    refuses(long.header(Segmentation::Tcp, 100), &long.bytes);
}

/// As etherparse sees it, where it can.
fn agrees(frame: &[u8]) {
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let net = packet.net.unwrap();
    if let NetSlice::Ipv4(ip) = &net {
        let header = ip.header().to_header();
        assert_eq!(header.header_checksum, header.calc_header_checksum());
    }
    let (found, expected) = match (packet.transport, &net) {
        (Some(TransportSlice::Tcp(tcp)), NetSlice::Ipv4(ip)) => {
            (tcp.checksum(), tcp.calc_checksum_ipv4(ip.header().source(), ip.header().destination()).unwrap())
        }
        (Some(TransportSlice::Tcp(tcp)), NetSlice::Ipv6(ip)) => {
            (tcp.checksum(), tcp.calc_checksum_ipv6(ip.header().source(), ip.header().destination()).unwrap())
        }
        (Some(TransportSlice::Udp(udp)), NetSlice::Ipv4(ip)) => {
            let header = ip.header().to_header();
            (udp.checksum(), udp.to_header().calc_checksum_ipv4(&header, udp.payload()).unwrap())
        }
        (Some(TransportSlice::Udp(udp)), NetSlice::Ipv6(ip)) => {
            let header = ip.header().to_header();
            (udp.checksum(), udp.to_header().calc_checksum_ipv6(&header, udp.payload()).unwrap())
        }
        other => panic!("{other:?}"),
    };
    assert!(found == expected || found == !expected && matches!(expected, 0 | 0xffff), "{found} {expected}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn segments_make_the_payload_again(seed: u64) {
        let sample = random::sample(&mut Dice(seed));
        let frames = sample.stack.cut(sample.kind, sample.size);
        let size = if sample.size == 0 { sample.payload.len() } else { usize::from(sample.size) };
        prop_assert_eq!(frames.len(), sample.payload.len().div_ceil(size.max(1)).max(1));
        prop_assert_eq!(reassemble(&frames, size), sample.payload);
        frames.iter().for_each(|frame| agrees(frame));
    }

    #[test]
    fn tunnelled_segments_make_the_payload_again(seed: u64) {
        let sample = random::tunnelled(&mut Dice(seed));
        let frames = sample.stack.cut(sample.kind, sample.size);
        prop_assert_eq!(reassemble(&frames, usize::from(sample.size)), sample.payload);
    }
}

/// Anything: random bytes, and good frames with bytes and metadata damaged.
#[test]
fn nothing_panics() {
    let seconds = std::env::var("SHAPE_SECONDS").map_or(2, |seconds| seconds.parse().unwrap());
    let started = std::time::Instant::now();
    let mut dice = Dice(0x1234_5678);
    let (mut all, mut understood) = (0, 0);
    while started.elapsed().as_secs() < seconds {
        let sample =
            if dice.below(2) == 0 { random::sample(&mut dice) } else { random::tunnelled(&mut dice) };
        let mut header = sample.stack.header(sample.kind, sample.size);
        for _ in 0..50 {
            let mut bytes = sample.stack.bytes.clone();
            for _ in 0..dice.below(6) {
                let at = dice.below(bytes.len().min(200));
                bytes[at] = dice.number() as u8;
            }
            if dice.below(4) == 0 {
                bytes.truncate(dice.below(bytes.len() + 1));
            }
            if dice.below(20) == 0 {
                bytes.iter_mut().for_each(|byte| *byte = dice.number() as u8);
            }
            header.original_len = bytes.len() as u32;
            match dice.below(8) {
                0 => header.segmentation = dice.below(6) as u16,
                1 => header.gso_size = dice.number() as u16 >> dice.below(16),
                2 => header.checksum = dice.number() as u16 & 0x0fff,
                3 => header.checksum = 0,
                4 => header.original_len = dice.number() as u32,
                _ => {}
            }
            all += 1;
            understood += usize::from(cut(&header, &bytes).is_some());
        }
    }
    assert!(understood > all / 10, "{understood} of {all}");
}

//! The kernel cuts and completes in software where a device can do neither, and what it makes of a super-frame
//! is the same, byte for byte, as what `shape` makes of it. Needs root: says so and passes where it is not.
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "kernel_segments/link.rs"]
mod link;
mod super_frames;

use link::{Link, VnetHeader};
use mirror_common::record::{ChecksumPlace, RecordHeader, Segmentation};
use super_frames::{
    ACK, CWR, ECE, FIN, PSH, Stack, cut, payload,
    random::{self, Dice},
    tcp, udp,
};

fn same(link: &Link, stack: &Stack, kind: Segmentation, size: u16, version: u8, name: &str) {
    let header = stack.header(kind, size);
    let ours = cut(&header, &stack.bytes).unwrap_or_else(|| panic!("{name}: not understood"));
    link.send(&VnetHeader::of(&header, &stack.bytes, version), &stack.bytes);
    for (number, our) in ours.iter().enumerate() {
        let kernels = link.receive().unwrap_or_else(|| panic!("{name}: frame {number} did not arrive"));
        assert_same(our, &kernels, &format!("{name}: frame {number} of {}", ours.len()));
    }
    link.assert_silent(name);
}

fn assert_same(ours: &[u8], kernels: &[u8], name: &str) {
    if ours != kernels {
        let at = ours.iter().zip(kernels).position(|(a, b)| a != b);
        let head = |bytes: &[u8]| bytes[..bytes.len().min(120)].to_vec();
        panic!(
            "{name} differs at {at:?}, {} and {} bytes\n  ours {:02x?}\nkernel {:02x?}",
            ours.len(),
            kernels.len(),
            head(ours),
            head(kernels)
        );
    }
}

#[test]
fn every_rule() {
    let Some(link) = Link::new() else { return };
    let timestamps = [1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8];
    let padding: &[u8] = &[1, 4, 0, 0, 0, 0];
    let all = FIN | PSH | CWR | ECE | ACK;
    for length in [1449, 2896, 2897, 10_001, 64_000] {
        let tcp = tcp(0xffff_fff0, all, &timestamps, &payload(length));
        let datagrams = udp(&payload(length));
        for tags in [&[][..], &[(0x8100, 0x2064)], &[(0x88a8, 5), (0x8100, 6)]] {
            for (version, ethertype, tcp, datagrams) in [
                (4, 0x0800, tcp.v4(6, 0xfffe, 0x4000, &[]), datagrams.v4(17, 0xfffe, 0, &[])),
                (4, 0x0800, tcp.v4(6, 1, 0, &[0x94, 4, 0, 0]), datagrams.v4(17, 1, 0x4000, &[0x94, 4, 0, 0])),
                (6, 0x86dd, tcp.v6(6, &[]), datagrams.v6(17, &[])),
                (6, 0x86dd, tcp.v6(6, &[(60, padding)]), datagrams.v6(17, &[(0, padding), (60, padding)])),
            ] {
                let name = format!("IPv{version}, {length} bytes, {} tags", tags.len());
                let tcp = tcp.tagged(tags, ethertype);
                same(&link, &tcp, Segmentation::Tcp, 1448, version, &format!("TCP, {name}"));
                let datagrams = datagrams.tagged(tags, ethertype);
                same(&link, &datagrams, Segmentation::Udp, 1200, version, &format!("UDP, {name}"));
            }
        }
    }
}

#[test]
fn missing_checksums() {
    let Some(link) = Link::new() else { return };
    for length in [0, 1, 2, 17, 18, 19, 100, 1399] {
        for (version, ethertype, stack) in [
            (4, 0x0800, tcp(1, ACK | PSH, &[], &payload(length)).v4(6, 1, 0x4000, &[])),
            (6, 0x86dd, tcp(1, ACK | PSH, &[], &payload(length)).v6(6, &[])),
            (4, 0x0800, udp(&payload(length)).v4(17, 1, 0, &[])),
            (6, 0x86dd, udp(&payload(length)).v6(17, &[])),
        ] {
            for tags in [&[][..], &[(0x8100, 1)]] {
                let stack = stack.tagged(tags, ethertype);
                same(&link, &stack, Segmentation::None, 0, version, &format!("IPv{version}, {length} bytes"));
            }
        }
    }
    // Sums to 0: sent as all ones.
    for word in 0..=u16::MAX {
        let stack = udp(&word.to_be_bytes()).v4(17, 1, 0, &[]).ethernet(0x0800);
        let frame = &cut(&stack.header(Segmentation::None, 0), &stack.bytes).unwrap()[0];
        if frame[40..42] == [0xff; 2] {
            return same(&link, &stack, Segmentation::None, 0, 4, "a sum of 0");
        }
    }
    panic!("no payload sums to 0");
}

#[test]
fn datagrams_that_sum_to_0() {
    let Some(link) = Link::new() else { return };
    for word in 0..=u16::MAX {
        let stack = udp(&[word.to_be_bytes(), [1, 2]].concat()).v4(17, 1, 0, &[]).ethernet(0x0800);
        let frames = cut(&stack.header(Segmentation::Udp, 2), &stack.bytes).unwrap();
        if frames[0][40..42] == [0xff; 2] {
            return same(&link, &stack, Segmentation::Udp, 2, 4, "a sum of 0");
        }
        assert_ne!(frames[0][40..42], [0; 2], "0 says that there is none");
    }
    panic!("no payload sums to 0");
}

#[test]
fn fragments() {
    let Some(link) = Link::new() else { return };
    for (length, size) in [(9000, 1400), (1393, 1400), (2792, 1400), (65_000, 1448)] {
        let stack = udp(&payload(length)).v4(17, 0xffff, 0x4000, &[]).ethernet(0x0800);
        same(&link, &stack, Segmentation::Fragments, size, 4, &format!("{length} bytes over IPv4"));
        // No extension headers: with them the kernel (6.18) counts their bytes into the offsets, and nobody can
        // make the datagram again. It draws the identification at random.
        let stack = udp(&payload(length)).v6(17, &[]).ethernet(0x86dd);
        let id = 14 + 40 + 4;
        let header = stack.header(Segmentation::Fragments, size);
        link.send(&VnetHeader::of(&header, &stack.bytes, 6), &stack.bytes);
        for mut ours in cut(&header, &stack.bytes).unwrap() {
            let kernels = link.receive().unwrap();
            ours[id..id + 4].copy_from_slice(&kernels[id..id + 4]);
            assert_same(&ours, &kernels, &format!("{length} bytes over IPv6"));
        }
        link.assert_silent("fragments over IPv6");
    }
}

/// With a source route the checksum is over the last destination, which the headers need not name at a known
/// place. The sum that the stack left has it.
#[test]
fn source_routes() {
    let Some(link) = Link::new() else { return };
    let routing: &[u8] = &[2, 1, 0, 0, 0, 0, 0xfd, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
    let loose: &[u8] = &[0x83, 7, 4, 10, 20, 0, 9, 0];
    let segments = tcp(1, ACK | PSH, &[], &payload(5001));
    let datagrams = udp(&payload(5001));
    for (version, kind, stack) in [
        (6, Segmentation::Tcp, segments.v6(6, &[(43, routing)]).ethernet(0x86dd)),
        (6, Segmentation::Udp, datagrams.v6(17, &[(43, routing)]).ethernet(0x86dd)),
        (4, Segmentation::Tcp, segments.v4(6, 1, 0, loose).ethernet(0x0800)),
        (4, Segmentation::Udp, datagrams.v4(17, 1, 0, loose).ethernet(0x0800)),
    ] {
        let mut stack = stack;
        let place = stack.place().unwrap();
        let field = usize::from(place.start + place.field);
        // Another address than the header's: any other sum.
        stack.bytes[field] ^= 0x11;
        same(&link, &stack, kind, 1000, version, &format!("{kind:?} over IPv{version}"));
    }
}

#[test]
fn frames_of_every_kind() {
    let Some(link) = Link::new() else { return };
    let mut dice = Dice(4);
    for number in 0..1000 {
        let seed = dice.number();
        let sample = random::sample(&mut Dice(seed));
        let place = usize::from(sample.stack.place().unwrap().start);
        let is_v6 = sample.stack.bytes[..place].windows(2).any(|pair| pair == [0x86, 0xdd]);
        let version = if is_v6 { 6 } else { 4 };
        let name = format!("number {number}, seed {seed:#x}");
        same(&link, &sample.stack, sample.kind, sample.size, version, &name);
    }
}

/// VXLAN as the kernel builds it: once handed over whole, once cut by the kernel.
#[test]
fn vxlan_of_the_kernel() {
    let Some(link) = Link::new() else { return };
    for (checksum, remote, local) in [
        ("noudpcsum", "10.77.0.2", "10.77.0.1"),
        ("udpcsum", "10.77.0.2", "10.77.0.1"),
        ("noudp6zerocsumtx", "fd77::2", "fd77::1"),
    ] {
        let vxlan = link.vxlan(checksum, remote, local);
        for (number, stack) in [
            tcp(9, FIN | PSH | CWR | ECE | ACK, &[], &payload(20_001)).v4(6, 5, 0x4000, &[]).ethernet(0x0800),
            tcp(9, FIN | PSH | ACK, &[], &payload(20_001)).v6(6, &[]).ethernet(0x86dd),
            udp(&payload(20_001)).v4(17, 5, 0, &[]).ethernet(0x0800),
        ]
        .into_iter()
        .enumerate()
        {
            let name = format!("{checksum} {number}");
            let kind = if number == 2 { Segmentation::Udp } else { Segmentation::Tcp };
            let vnet =
                VnetHeader::of(&stack.header(kind, 1300), &stack.bytes, if number == 1 { 6 } else { 4 });
            link.offloads("on");
            vxlan.send(&vnet, &stack.bytes);
            let (told, mut whole) = vxlan.receive_whole().unwrap_or_else(|| panic!("{name}: nothing came"));
            assert_eq!(told.gso_size, 1300, "{name}");
            link.offloads("off");
            vxlan.send(&vnet, &stack.bytes);
            let kernels: Vec<_> =
                std::iter::from_fn(|| vxlan.receive_whole()).map(|(_, frame)| frame).collect();
            if whole[12..14] == [8, 0] {
                // Another datagram, another identification.
                whole[18..20].copy_from_slice(&kernels[0][18..20]);
            }
            let header = RecordHeader {
                captured_len: whole.len() as u32,
                original_len: whole.len() as u32,
                segmentation: kind as u16,
                gso_size: told.gso_size,
                checksum: ChecksumPlace { start: told.csum_start, field: told.csum_offset }.packed(),
                ..RecordHeader::default()
            };
            let ours = cut(&header, &whole).unwrap_or_else(|| panic!("{name}: not understood"));
            assert_eq!(ours.len(), kernels.len(), "{name}");
            for (ours, kernels) in ours.iter().zip(&kernels) {
                assert_same(ours, kernels, &name);
            }
        }
    }
}

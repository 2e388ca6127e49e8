//! One capture of every format and of every link type.

use super::{
    Order::{Big, Little},
    Packet, Pcap, Pcapng, START, Unit, cooked, cooked2, ip_packets, link, loopback, packets,
};
use crate::frames;

/// A capture with its name.
#[derive(Debug)]
pub struct Sample {
    pub name: &'static str,
    pub bytes: Vec<u8>,
}

impl Sample {
    fn pcap(name: &'static str, file: &Pcap) -> Self {
        Self { name, bytes: file.bytes().to_vec() }
    }

    fn pcapng(name: &'static str, file: &Pcapng) -> Self {
        Self { name, bytes: file.bytes().to_vec() }
    }
}

/// The number of frames in each of [`formats`].
pub const FRAMES: u64 = 192;

/// Nanoseconds between packets. No power of ten, so that every digit of a time stamp is in use.
const GAP: u64 = 234_567;

/// `if_tsresol` and `if_tsoffset`.
const TSRESOL: u16 = 9;
const TSOFFSET: u16 = 14;

/// A capture of the crafted frames below [`FRAMES`] in every format, each but one with a time for every frame.
#[must_use]
pub fn formats() -> Vec<Sample> {
    let mut samples = Vec::new();
    for (name, order, unit) in [
        ("pcap-le-us", Little, Unit::Micro),
        ("pcap-le-ns", Little, Unit::Nano),
        ("pcap-be-us", Big, Unit::Micro),
        ("pcap-be-ns", Big, Unit::Nano),
    ] {
        let mut file = Pcap::new(order, unit, link::ETHERNET);
        for (time, frame) in crafted() {
            file.packet(time, &frame);
        }
        samples.push(Sample::pcap(name, &file));
    }
    for (name, order) in [("pcapng-le", Little), ("pcapng-be", Big)] {
        samples.push(Sample::pcapng(name, &resolutions(order)));
    }
    samples.push(Sample::pcapng("pcapng-sections", &sections()));
    samples.push(Sample::pcapng("pcapng-obsolete", &obsolete()));
    samples.push(Sample::pcapng(SIMPLE, &simple()));
    samples
}

/// The name of the format that has no times.
pub const SIMPLE: &str = "pcapng-simple";

fn crafted() -> impl Iterator<Item = (u64, Vec<u8>)> {
    (0..FRAMES).map(|index| (START + index * GAP, frames::frame(index)))
}

/// Interfaces whose time stamps have different units, their packets mixed.
fn resolutions(order: super::Order) -> Pcapng {
    let mut file = Pcapng::new(order);
    let zone = if order == Little { 1_600_000_000u64.to_le_bytes() } else { 1_600_000_000u64.to_be_bytes() };
    file.interface(link::ETHERNET, &[]) // 10^-6 unless said
        .interface(link::ETHERNET, &[(2, b"eth-nano"), (TSRESOL, &[9])])
        .interface(link::ETHERNET, &[(TSRESOL, &[3])])
        .interface(link::ETHERNET, &[(TSRESOL, &[0x80 | 10])])
        .interface(link::ETHERNET, &[(TSRESOL, &[9]), (TSOFFSET, &zone)]);
    for (index, (time, frame)) in (0u32..).zip(crafted()) {
        let time = match index % 5 {
            0 => time / 1_000,
            1 => time,
            2 => time / 1_000_000,
            3 => (u128::from(time) * 1024 / 1_000_000_000) as u64,
            _ => time - 1_600_000_000_000_000_000,
        };
        file.enhanced(index % 5, time, &frame);
    }
    file
}

/// Three sections of both byte orders, each with interfaces of its own, and blocks that are not packets.
fn sections() -> Pcapng {
    let mut file = Pcapng::new(Little);
    for (index, (time, frame)) in (0..FRAMES).zip(crafted()) {
        if index % (FRAMES / 3) == 0 {
            if index > 0 {
                file.section(if index == FRAMES / 3 { Big } else { Little });
            }
            file.block(4, &[0; 4]) // name resolution, without a name
                .block(0x0bad_cafe, b"of somebody else's") // 18 bytes and padding
                .interface(link::ETHERNET, &[(TSRESOL, &[9])]);
        }
        if index % 50 == 0 {
            file.block(5, &[0; 12]); // statistics
        }
        file.enhanced(0, time, &frame);
    }
    file
}

fn obsolete() -> Pcapng {
    let mut file = Pcapng::new(Big);
    file.interface(link::ETHERNET, &[]).interface(link::ETHERNET, &[(TSRESOL, &[9])]);
    for (index, (time, frame)) in (0u16..).zip(crafted()) {
        file.obsolete(index % 2, if index % 2 == 0 { time / 1_000 } else { time }, &frame);
    }
    file
}

fn simple() -> Pcapng {
    let mut file = Pcapng::new(Little);
    file.interface(link::ETHERNET, &[]);
    for (_, frame) in crafted() {
        file.simple(&frame);
    }
    file
}

/// A capture of every link type but Ethernet, and one with several.
#[must_use]
pub fn link_types() -> Vec<Sample> {
    const MAC: [u8; 6] = [0x02, 0xab, 0xcd, 0xef, 0x01, 0x02];
    const COUNT: u64 = 96;
    let both = || ip_packets(COUNT);
    let plain = |wanted: u16| both().filter(move |(ethertype, _)| *ethertype == wanted);
    // A device's address may have other lengths than six bytes.
    let sources = [&MAC[..], &[], &[9; 4], &MAC];
    let mut samples: Vec<_> = [
        ("raw-101", link::RAW, both().map(|(_, packet)| packet).collect()),
        ("raw-12", link::RAW_12, both().map(|(_, packet)| packet).collect()),
        ("ipv4", link::IPV4, plain(0x0800).map(|(_, packet)| packet).collect()),
        ("ipv6", link::IPV6, plain(0x86dd).map(|(_, packet)| packet).collect()),
        (
            "cooked",
            link::COOKED,
            tagged(packets(COUNT))
                .zip(sources.iter().cycle())
                .map(|(packet, source)| cooked(source, &packet))
                .collect(),
        ),
        (
            "cooked2",
            link::COOKED2,
            tagged(packets(COUNT))
                .zip(sources.iter().cycle())
                .map(|(packet, source)| cooked2(source, &packet))
                .collect(),
        ),
        ("null-le", link::NULL, both().map(|packet| loopback(Little, 30, &packet)).collect()),
        ("null-be", link::NULL, both().map(|packet| loopback(Big, 24, &packet)).collect()),
        ("loop", link::LOOP, both().map(|packet| loopback(Big, 28, &packet)).collect()),
    ]
    .into_iter()
    .map(|(name, link, packets): (_, _, Vec<Vec<u8>>)| {
        let mut file = Pcap::new(Little, Unit::Nano, link);
        for (time, packet) in (0..).zip(packets) {
            file.packet(START + time * GAP, &packet);
        }
        Sample::pcap(name, &file)
    })
    .collect();
    let mut file = Pcapng::new(Little);
    file.interface(link::ETHERNET, &[]).interface(link::RAW, &[]).interface(link::COOKED, &[]);
    for (index, packet) in (0u32..).zip(both()) {
        let bytes = match index % 3 {
            0 => frames::frame(index.into()),
            1 => packet.1,
            _ => cooked(&MAC, &packet),
        };
        file.enhanced(index % 3, START / 1_000 + u64::from(index), &bytes);
    }
    samples.push(Sample::pcapng("several", &file));
    samples
}

/// Puts a VLAN tag in front of every seventh packet, as libpcap does on the `any` device.
fn tagged(packets: impl Iterator<Item = Packet>) -> impl Iterator<Item = Packet> {
    packets.enumerate().map(|(index, (ethertype, packet))| match index % 7 {
        6 => (0x8100, [&[0, 42][..], &ethertype.to_be_bytes(), &packet].concat()),
        _ => (ethertype, packet),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{scratch::Scratch, tshark};

    const TO: [u8; 6] = [2, 0, 0, 0, 0, 2];
    const FROM: [u8; 6] = [2, 0, 0, 0, 0, 1];

    /// The makers and tshark agree on every format, so a comparison with either is one with both.
    #[test]
    fn tshark_reads_every_format_as_it_was_made() {
        let scratch = Scratch::new();
        let path = scratch.path("sample");
        for sample in formats() {
            std::fs::write(&path, &sample.bytes).unwrap();
            let frames: Vec<_> = crafted().map(|(_, frame)| frame).collect();
            assert!(tshark::as_ethernet(&path, TO, FROM) == frames, "{}", sample.name);
            if sample.name == SIMPLE {
                continue;
            }
            for ((read, (made, _)), index) in tshark::times(&path).into_iter().zip(crafted()).zip(0..) {
                // The coarsest unit is a millisecond.
                assert!(made.abs_diff(read) < 1_000_000, "{}: {made} {read} frame {index}", sample.name);
            }
        }
    }

    #[test]
    fn tshark_reads_every_link_type_as_it_was_made() {
        let scratch = Scratch::new();
        let path = scratch.path("sample");
        for sample in link_types() {
            std::fs::write(&path, &sample.bytes).unwrap();
            let frames = tshark::as_ethernet(&path, TO, FROM);
            println!("{}: {} frames", sample.name, frames.len());
            assert!(frames.len() >= 20, "{}", sample.name);
            if sample.name == "several" {
                continue;
            }
            let expected: Vec<_> = match sample.name {
                "cooked" | "cooked2" => tagged(packets(96)).collect(),
                "ipv4" => ip_packets(96).filter(|packet| packet.0 == 0x0800).collect(),
                "ipv6" => ip_packets(96).filter(|packet| packet.0 == 0x86dd).collect(),
                _ => ip_packets(96).collect(),
            };
            assert_eq!(frames.len(), expected.len(), "{}", sample.name);
            for (frame, (ethertype, packet)) in frames.iter().zip(expected) {
                assert_eq!(frame[..6], TO, "{}", sample.name);
                assert_eq!(frame[12..14], ethertype.to_be_bytes(), "{}", sample.name);
                assert_eq!(frame[14..], packet, "{}", sample.name);
            }
        }
    }
}

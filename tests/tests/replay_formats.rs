//! `-r`: every format and link type arrives as other people's programs read it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::{fs, path::Path, process::Command, time::Duration};

use mirror_tests::{
    agent::Outcome,
    captures::{
        self, Order, Pcap, Pcapng, START, Unit,
        samples::{self, Sample},
    },
    check::Check,
    command, frames,
    lab::Lab,
    lock, pcap,
    replay::{assert_bad_input, into_sink, play, play_standard_input, report_of_failure},
    scratch::Scratch,
    sensor::Sensor,
    tshark,
};

/// The MAC addresses that frames get whose capture has none.
const SYNTHETIC_DESTINATION: [u8; 6] = [2, 0, 0, 0, 0, 2];
const SYNTHETIC_SOURCE: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Slow enough for any sink, and not the capture's own pace.
const PACE: &str = "--pps 5000";

fn read_by_tshark(path: &Path) -> Vec<Vec<u8>> {
    tshark::as_ethernet(path, SYNTHETIC_DESTINATION, SYNTHETIC_SOURCE)
}

fn bytes_of(packets: Vec<pcap::Packet>) -> Vec<Vec<u8>> {
    packets.into_iter().map(|packet| packet.bytes).collect()
}

/// Compares frame by frame, and shows the first that differs.
fn assert_same(name: &str, got: &[Vec<u8>], expected: &[Vec<u8>]) {
    for (index, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert_eq!(got, expected, "{name}: frame {index}");
    }
    assert_eq!(got.len(), expected.len(), "{name}: frames");
}

fn assert_played(outcome: &Outcome, path: &Path, frames: &[Vec<u8>]) {
    let report = outcome.report();
    let bytes: u64 = frames.iter().map(|frame| frame.len() as u64).sum();
    assert_eq!(report.frames.seen, frames.len() as u64, "{report:#?}");
    assert_eq!(report.frames.sent, report.frames.seen, "{report:#?}");
    assert_eq!(report.datagrams_sent, report.frames.sent);
    assert_eq!(report.bytes_sent, bytes + 8 * report.frames.sent, "a VXLAN header and a frame each");
    assert_eq!((report.truncated, report.replay().passes), (0, 1));
    assert_eq!(report.interfaces.len(), 1);
    assert_eq!(report.interfaces[0].name, path.display().to_string());
}

/// Plays each sample into a sink, and compares it there with what tshark reads from the file.
fn samples_arrive(samples: Vec<Sample>) {
    let _turn = lock::shared();
    let (lab, scratch) = (Lab::new(), Scratch::new());
    for Sample { name, bytes } in samples {
        let path = scratch.path(name);
        fs::write(&path, bytes).unwrap();
        let expected = read_by_tshark(&path);
        let (outcome, packets) = into_sink(&lab, &scratch, || play(&lab, &[&path], PACE));
        println!("{name}: {} frames", packets.len());
        assert!(expected.len() >= 20, "{name} has {} frames", expected.len());
        assert_same(name, &bytes_of(packets), &expected);
        assert_played(&outcome, &path, &expected);
    }
}

#[test]
fn every_format_arrives_as_tshark_reads_it() {
    samples_arrive(samples::formats());
}

#[test]
fn every_link_type_arrives_as_ethernet() {
    samples_arrive(samples::link_types());
}

/// What scapy writes, for packets that nobody here made by hand.
const SCAPY_WRITES: &str = "
import sys
from scapy.all import *
conf.verb = 0
packets = []
for i in range(100):
    # With both MACs: scapy would ask the network for what is missing.
    mac = Ether(src='02:00:00:00:07:01', dst='02:00:00:00:07:02')
    ip, ip6 = IP(src='10.8.0.1', dst='10.9.0.%d' % i), IPv6(src='fd76::1', dst='fd77::%x' % i)
    layer = [mac/ip, mac/Dot1Q(vlan=i+1)/ip6][i % 2]
    layer = layer / [UDP(sport=1000+i)/DNS(qd=DNSQR(qname='host%d.example' % i)), TCP(flags='S', options=[('MSS', 1460)]),
                     UDP(dport=4789)/VXLAN(vni=i)/mac/ip/ICMP()][i % 3]
    packet = Ether(bytes(layer))
    packet.time = 1700000000 + i * 0.001
    packets.append(packet)
wrpcap(sys.argv[1] + '.pcap', packets)
wrpcapng(sys.argv[1] + '.pcapng', packets)
wrpcap(sys.argv[1] + '.gz', packets, gz=True)
";

/// What scapy reads: the bytes in hexadecimal, one packet a line.
const SCAPY_READS: &str = "
import sys
from scapy.all import *
for packet, _ in RawPcapReader(sys.argv[1]):
    print(bytes(packet).hex())
";

#[test]
fn captures_of_scapy_arrive_as_scapy_reads_them() {
    let _turn = lock::shared();
    let (lab, scratch) = (Lab::new(), Scratch::new());
    let python = command::python_with_scapy();
    command::run(Command::new(&python).args(["-c", SCAPY_WRITES]).arg(scratch.path("scapy")));
    for name in ["scapy.pcap", "scapy.pcapng", "scapy.gz"] {
        let path = scratch.path(name);
        let expected = command::run(Command::new(&python).args(["-c", SCAPY_READS]).arg(&path));
        let (outcome, packets) = into_sink(&lab, &scratch, || play(&lab, &[&path], PACE));
        assert_eq!(outcome.report().frames.sent, 100, "{name}");
        assert_eq!(packets.len(), expected.lines().count(), "{name}");
        for (packet, line) in packets.iter().zip(expected.lines()) {
            let hex: String = packet.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(hex, line, "{name}");
        }
    }
}

#[test]
fn compression_is_known_by_content_and_not_by_name() {
    let _turn = lock::shared();
    let (lab, scratch) = (Lab::new(), Scratch::new());
    let plain = captures::crafted(samples::FRAMES, 1_000);
    let pcapng = samples::formats().into_iter().find(|sample| sample.name == "pcapng-sections").unwrap();
    let frames: Vec<_> = (0..samples::FRAMES).map(frames::frame).collect();
    // Both formats may consist of several pieces, of which the first alone may be less than a header.
    let (head, tail) = plain.bytes().split_at(10);
    for (name, bytes) in [
        ("plain.pcap.gz", plain.bytes().to_vec()),
        ("gzip.pcap", captures::gzip(plain.bytes())),
        ("gzip-of-pcapng.zst", captures::gzip(&pcapng.bytes)),
        ("zstd.gz", captures::zstd(plain.bytes())),
        ("zstd-of-pcapng", captures::zstd(&pcapng.bytes)),
        ("gzip-members", [captures::gzip(head), captures::gzip(tail)].concat()),
        ("zstd-frames", [captures::zstd(head), captures::zstd(tail)].concat()),
    ] {
        let path = scratch.path(name);
        fs::write(&path, bytes).unwrap();
        let sensor = Sensor::keeping(&lab.sensor);
        let outcome = play(&lab, &[&path], PACE);
        assert_same(name, &sensor.finish().0, &frames);
        assert_played(&outcome, &path, &frames);
    }
}

#[test]
fn standard_input_is_played() {
    let _turn = lock::shared();
    let (lab, scratch) = (Lab::new(), Scratch::new());
    let plain = captures::crafted(samples::FRAMES, 1_000);
    let frames: Vec<_> = (0..samples::FRAMES).map(frames::frame).collect();
    for bytes in [plain.bytes().to_vec(), captures::gzip(plain.bytes()), captures::zstd(plain.bytes())] {
        let path = scratch.path("input");
        fs::write(&path, bytes).unwrap();
        let sensor = Sensor::keeping(&lab.sensor);
        let outcome = play_standard_input(&lab, &path, PACE);
        assert_same("standard input", &sensor.finish().0, &frames);
        assert_played(&outcome, Path::new("-"), &frames);
    }
}

/// Connections stay on their ports, both ways, in order; the fragments of a datagram stay together; and a
/// second pass and a second run take the same ports.
#[test]
fn flows_keep_their_ports_and_their_order_at_top_speed() {
    const FRAMES: u64 = 20_000;
    let _turn = lock::shared();
    let (lab, scratch) = (Lab::new(), Scratch::new());
    let path = scratch.path("crafted.pcap");
    captures::crafted(FRAMES, 1_000).save(&path);
    for transmit in ["auto", "packet", "udp"] {
        let sensor =
            Sensor::start(&lab.sensor, Check::new(0..FRAMES).vni(7), |check, datagram| check.look(datagram));
        let more = format!("--topspeed --vni 7 --transmit {transmit}");
        let report = play(&lab, &[&path], &more).report();
        let (check, totals) = sensor.finish();
        println!("{transmit}: {} flows from {} ports", check.flows(), check.ports());
        check.assert_complete();
        assert_eq!(report.frames.sent, FRAMES, "{transmit}");
        assert_eq!(report.bytes_sent, totals.bytes, "{transmit}");
        assert!(report.send_errors.is_empty(), "{transmit}: {:?}", report.send_errors);
    }
}

#[test]
fn several_files_are_played_in_a_row() {
    let _turn = lock::shared();
    let (lab, scratch) = (Lab::new(), Scratch::new());
    let paths = ["a.pcap", "b.pcapng", "c"].map(|name| scratch.path(name));
    // The second is older than the first: files are played in the order given all the same.
    let mut second = Pcapng::new(Order::Big);
    second.interface(captures::link::ETHERNET, &[]);
    let (mut first, mut third) = (Pcap::ethernet(), Pcap::new(Order::Big, Unit::Micro, 1));
    for index in 0..100 {
        first.packet(START + index * 1_000_000, &frames::frame(index));
        second.enhanced(0, START / 1_000 - 1_000_000_000 + index, &frames::frame(100 + index));
        third.packet(START + index * 1_000, &frames::frame(200 + index));
    }
    first.save(&paths[0]);
    second.save(&paths[1]);
    fs::write(&paths[2], captures::zstd(third.bytes())).unwrap();
    let sensor = Sensor::keeping(&lab.sensor);
    let report = play(&lab, &[&paths[0], &paths[1], &paths[2]], PACE).report();
    let frames: Vec<_> = (0..300).map(frames::frame).collect();
    assert_same("three files", &sensor.finish().0, &frames);
    let names: Vec<_> =
        report.interfaces.iter().map(|interface| (&*interface.name, interface.seen)).collect();
    let paths = paths.map(|path| path.display().to_string());
    assert_eq!(names, paths.each_ref().map(|path| (&**path, 100)));
    let bytes: u64 = frames[100..200].iter().map(|frame| frame.len() as u64).sum();
    assert_eq!(report.interfaces[1].bytes, bytes);
}

/// Frames of which the capture holds the first bytes only.
#[test]
fn frames_that_the_capture_cut_are_sent_as_they_are_and_counted() {
    let _turn = lock::shared();
    let (lab, scratch) = (Lab::new(), Scratch::new());
    let (cut, whole) = (scratch.path("cut.pcap"), scratch.path("whole.pcap"));
    captures::crafted(samples::FRAMES, 1_000).save(&whole);
    command::run(Command::new("editcap").args(["-s", "96"]).args([&whole, &cut]));
    let sensor = Sensor::keeping(&lab.sensor);
    let report = play(&lab, &[&cut], PACE).report();
    let frames: Vec<_> = (0..samples::FRAMES).map(frames::frame).collect();
    let longer = frames.iter().filter(|frame| frame.len() > 96).count() as u64;
    let cut: Vec<_> = frames.into_iter().map(|frame| frame[..frame.len().min(96)].to_vec()).collect();
    assert_same("cut", &sensor.finish().0, &cut);
    assert!(longer > 100);
    assert_eq!((report.truncated, report.frames.sent), (longer, samples::FRAMES));
}

#[test]
fn unknown_link_types_are_named_and_other_files_are_played() {
    let _turn = lock::shared();
    let (lab, scratch) = (Lab::new(), Scratch::new());
    let [radio, good, mixed] = ["radio.pcap", "good.pcap", "mixed.pcapng"].map(|name| scratch.path(name));
    let mut file = Pcap::new(Order::Little, Unit::Micro, captures::link::RADIOTAP);
    file.packet(START, &[0; 60]).save(&radio);
    captures::crafted(50, 1_000).save(&good);
    let mut file = Pcapng::new(Order::Little);
    file.interface(captures::link::RADIOTAP, &[]).enhanced(0, START / 1_000, &[0; 60]).save(&mixed);
    for path in [&radio, &mixed] {
        let outcome = play(&lab, &[path], "");
        assert_bad_input(&outcome, &["link type 127", &path.display().to_string()]);
    }

    let sensor = Sensor::keeping(&lab.sensor);
    let outcome = play(&lab, &[&radio, &good, &mixed, &good], PACE);
    assert_bad_input(&outcome, &["link type 127"]);
    sensor.wait_for(100, Duration::from_secs(5));
    let frames: Vec<_> = (0..50).chain(0..50).map(frames::frame).collect();
    assert_same("beside unknown link types", &sensor.finish().0, &frames);
    assert_eq!(report_of_failure(&outcome).frames.sent, 100);
}

//! `-r` with `-w`: from capture to capture.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::{
    collections::HashMap,
    fs,
    process::Command,
    time::{Duration, Instant},
};

use mirror_tests::{
    agent::{self, Agent},
    captures::{self, START, samples},
    command, frames,
    frames::{Flow, Plan},
    lab::{DEFAULT_VNI, Lab},
    lock, pcap,
    replay::{PATIENCE, convert, shell_line},
    report::Report,
    scratch::Scratch,
    tshark,
};

/// Bytes of the outer Ethernet, IPv4, UDP and VXLAN headers.
const OUTER: usize = 14 + 20 + 8 + 8;

#[test]
fn every_format_keeps_its_frames_and_times() {
    let _turn = lock::shared();
    let (lab, scratch) = (Lab::new(), Scratch::new());
    for sample in samples::formats().into_iter().chain(samples::link_types()) {
        let (source, to) = (scratch.path("source"), scratch.path("to.pcapng"));
        fs::write(&source, &sample.bytes).unwrap();
        let (report, packets) = convert(&lab, &source, &to, "");
        let frames = tshark::as_ethernet(&source, [2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1]);
        assert_eq!(packets.len(), frames.len(), "{}", sample.name);
        assert_eq!(report.frames.sent, frames.len() as u64, "{}", sample.name);
        assert_eq!((report.datagrams_sent, &*report.encap), (0, "none"));
        for (index, (packet, frame)) in packets.iter().zip(&frames).enumerate() {
            assert_eq!(packet.bytes, *frame, "{}: frame {index}", sample.name);
        }
        if sample.name == samples::SIMPLE {
            continue;
        }
        for (index, (packet, time)) in packets.iter().zip(tshark::times(&source)).enumerate() {
            // A unit that is a power of two may be rounded either way.
            assert!(
                packet.time.abs_diff(time) <= 1,
                "{}: frame {index}: {} {time}",
                sample.name,
                packet.time
            );
        }
    }
}

#[test]
fn capture_is_pcapng_in_nanoseconds_and_a_minute_takes_none() {
    let _turn = lock::shared();
    let (lab, scratch) = (Lab::new(), Scratch::new());
    let (source, to) = (scratch.path("source"), scratch.path("to.pcapng"));
    captures::crafted(61, 1_000_000_001).save(&source);
    let start = Instant::now();
    let (_, packets) = convert(&lab, &source, &to, "");
    assert!(start.elapsed() < Duration::from_secs(10), "a capture of a minute took {:?}", start.elapsed());
    let times: Vec<_> = packets.iter().map(|packet| packet.time).collect();
    assert_eq!(times, (0..61).map(|index| START + index * 1_000_000_001).collect::<Vec<_>>());
    let info = command::run(Command::new("capinfos").arg("-M").arg(&to));
    assert!(info.contains("pcapng") && info.contains("nanoseconds (9)"), "{info}");

    // Paced where that is asked for.
    let (report, _) = convert(&lab, &source, &to, "--pps 60");
    assert!((0.9..2.0).contains(&report.duration_s), "{} s", report.duration_s);
}

/// A capture that was cut keeps the length on the wire.
#[test]
fn cut_frames_keep_their_length_on_the_wire() {
    let _turn = lock::shared();
    let (lab, scratch) = (Lab::new(), Scratch::new());
    let [whole, cut, to] = ["whole.pcap", "cut.pcap", "to.pcapng"].map(|name| scratch.path(name));
    captures::crafted(200, 1_000).save(&whole);
    command::run(Command::new("editcap").args(["-s", "96"]).args([&whole, &cut]));
    let line = format!("-r {} -w {} --report json", cut.display(), to.display());
    let report = agent::run(&lab.router, &line, PATIENCE).report();
    let lengths = |path| tshark::fields(path, "", &["frame.len", "frame.cap_len"], &[]);
    assert_eq!(lengths(&to), lengths(&cut));
    let longer = (0..200).filter(|index| frames::frame(*index).len() > 96).count() as u64;
    assert_eq!(report.truncated, longer);
}

#[test]
fn same_input_makes_the_same_bytes() {
    let _turn = lock::shared();
    let (lab, scratch) = (Lab::new(), Scratch::new());
    let source = scratch.path("source");
    captures::crafted(5_000, 1_234).save(&source);
    for more in ["", "--write-outer", "--write-outer --dest 10.20.0.2:5000 --vni 9"] {
        let [first, second] = ["first", "second"].map(|name| {
            let to = scratch.path(name);
            let line = format!("-r {} -w {} -q {more}", source.display(), to.display());
            let outcome = agent::run(&lab.router, &line, PATIENCE);
            assert_eq!(outcome.code(), 0, "{outcome}");
            assert_eq!(outcome.stderr, "");
            fs::read(to).unwrap()
        });
        assert!(first.len() > 1_000_000, "{more}: {} bytes", first.len());
        assert!(first == second, "{more}: the second run wrote other bytes");
    }
}

#[test]
fn outer_headers_are_right_and_frames_unchanged() {
    const FRAMES: u64 = 5_000;
    let _turn = lock::shared();
    let (lab, scratch) = (Lab::new(), Scratch::new());
    let (source, to) = (scratch.path("source"), scratch.path("to.pcapng"));
    captures::crafted(FRAMES, 1_001).save(&source);
    for (more, destination, port, vni) in [
        ("--write-outer", "127.0.0.1", 4789, DEFAULT_VNI),
        ("--write-outer --dest 10.20.0.2:5000 --vni 9", "10.20.0.2", 5000, 9),
    ] {
        let (report, packets) = convert(&lab, &source, &to, more);
        assert_eq!((report.frames.sent, packets.len() as u64), (FRAMES, FRAMES));
        let names = [
            "frame.protocols",
            "ip.dst",
            "udp.dstport",
            "udp.srcport",
            "vxlan.vni",
            "vxlan.flags",
            "ip.checksum.status",
            "udp.checksum.status",
            "udp.length",
            "ip.len",
        ];
        let decode = format!("udp.port=={port},vxlan");
        let options = [
            "ip.check_checksum:TRUE",
            "udp.check_checksum:TRUE",
            "ip.defragment:FALSE",
            "ipv6.defragment:FALSE",
        ];
        let rows = tshark::fields_decoded_as(&to, &decode, &names, &options);
        assert_eq!(rows.len() as u64, FRAMES);
        let mut port_of: HashMap<Flow, String> = HashMap::new();
        for (index, (row, packet)) in (0..).zip(rows.iter().zip(&packets)) {
            let frame = frames::frame(index);
            assert_eq!(packet.time, START + index * 1_001, "the time of frame {index}");
            assert_eq!(packet.bytes[OUTER..], frame, "frame {index}");
            // Repeated fields are listed from the outermost header on.
            let outer: Vec<&str> = row.iter().map(|field| field.split(',').next().unwrap()).collect();
            assert!(row[0].starts_with("eth:ethertype:ip:udp:vxlan:eth"), "{row:?}");
            assert_eq!(outer[1..3], [destination, &port.to_string()], "{row:?}");
            assert_eq!(outer[4..7], [&*vni.to_string(), "0x0800", "1"], "{row:?}");
            // Right, or none, which IPv4 allows.
            assert!(["1", "3"].contains(&outer[7]), "the UDP checksum: {row:?}");
            assert_eq!(outer[8], (frame.len() + 16).to_string(), "{row:?}");
            assert_eq!(outer[9], (frame.len() + 36).to_string(), "{row:?}");
            assert!(outer[3].parse::<u16>().unwrap() >= 49_152, "{row:?}");
            if let Some(flow) = Plan::of(index).flow() {
                let first = port_of.entry(flow).or_insert_with(|| outer[3].to_owned());
                assert_eq!(first, outer[3], "the port of frame {index}'s flow");
            }
        }
    }
}

#[test]
fn standard_output_takes_the_capture_and_standard_error_the_report() {
    let _turn = lock::shared();
    let (lab, scratch) = (Lab::new(), Scratch::new());
    let (source, to) = (scratch.path("source"), scratch.path("to"));
    captures::crafted(2_000, 1_000).save(&source);
    let line = shell_line(&format!("-r - -w - --report json < {}", source.display()));
    let outcome = Agent::spawn(lab.router.command("sh").args(["-c", &line])).wait(PATIENCE);
    assert_eq!(outcome.code(), 0, "{outcome}");
    fs::write(&to, &outcome.stdout).unwrap();
    let converted = scratch.path("converted");
    tshark::convert(&to, &converted);
    let packets = pcap::read(&converted);
    assert_eq!(packets.len(), 2_000);
    assert!((0..).zip(&packets).all(|(index, packet)| packet.bytes == frames::frame(index)));
    let json = outcome.stderr.lines().skip_while(|line| !line.starts_with('{')).collect::<String>();
    let report: Report = serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error}: {outcome}"));
    report.check();
    assert_eq!(report.frames.sent, 2_000);
}

/// Its own output played again gives the same frames: with one interface for all, as an ordinary capture.
#[test]
fn what_was_written_can_be_played() {
    let _turn = lock::shared();
    let (lab, scratch) = (Lab::new(), Scratch::new());
    let [source, once, twice] = ["source", "once.pcapng", "twice.pcapng"].map(|name| scratch.path(name));
    captures::crafted(1_000, 1_000).save(&source);
    let (_, first) = convert(&lab, &source, &once, "");
    let (_, second) = convert(&lab, &once, &twice, "");
    assert!(first == second);
}

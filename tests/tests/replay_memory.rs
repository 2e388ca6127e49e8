//! Memory stays flat, whatever is played.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::{
    fs::{self, File},
    net::UdpSocket,
    os::unix::fs::FileExt as _,
    path::Path,
    time::{Duration, Instant},
};

use mirror_tests::{
    agent::{Agent, Outcome, command},
    captures::{self, Order, Pcap, Pcapng, START, link, udp_frame},
    lab::{Lab, UPLINK},
    lock,
    replay::{arguments, report_of_failure, watch_memory},
    scratch::Scratch,
};

const LIMIT: u64 = 64 << 20;
/// Four gigabytes, and more than 32 bits count.
const LARGE: u64 = (4 << 30) + (64 << 20);
const PATIENCE: Duration = Duration::from_secs(120);

/// A compressor.
type Compress = fn(&[u8]) -> Vec<u8>;

/// Plays a file at top speed, and checks that the agent stayed below the limit.
fn play(lab: &Lab, file: &Path) -> Outcome {
    let start = Instant::now();
    let line = format!("{} --topspeed", arguments(&[file]));
    let agent = Agent::spawn(&mut command(&lab.router, &line));
    let memory = watch_memory(agent.pid());
    let outcome = agent.wait(PATIENCE);
    let peak = memory.join().unwrap();
    println!(
        "{}: {:.1} MiB of memory at most, in {:.1} s",
        file.file_name().unwrap().display(),
        peak as f64 / f64::from(1 << 20),
        start.elapsed().as_secs_f64()
    );
    outcome.assert_no_panic();
    assert!(peak > 0, "it was never seen");
    assert!(peak < LIMIT, "{peak} bytes of memory: {outcome}");
    assert!(outcome.stderr.len() < 20_000, "{} bytes on standard error", outcome.stderr.len());
    outcome
}

/// Bound to the sensor's port and never read, so that the sensor's host answers with nothing.
fn bound(lab: &Lab) -> UdpSocket {
    lab.sensor.within(|| UdpSocket::bind("10.20.0.2:4789").unwrap())
}

#[test]
fn capture_of_4_gigabytes_is_played_in_less_than_64_megabytes() {
    const FRAME: usize = 60_000;
    let _turn = lock::alone();
    let (lab, scratch) = (Lab::new(), Scratch::new());
    let _bound = bound(&lab);
    // Frames in one piece: what is measured is the reader, not fragmentation.
    lab.router.mtu(UPLINK, 65_535);
    lab.sensor.mtu("eth0", 65_535);
    let path = scratch.path("large.pcap");
    let file = File::create(&path).unwrap();
    file.write_all_at(Pcap::ethernet().bytes(), 0).unwrap();
    // Headers only. The payloads are holes, which are read as zeros and take no room on the disk.
    let (mut at, mut frames) = (24, 0);
    while at < LARGE {
        let mut record = Pcap::ethernet();
        let frame = udp_frame((frames % 1_000) as u16, FRAME);
        record.record(START + frames * 1_000, FRAME as u32, FRAME as u32, &frame[..42]);
        file.write_all_at(&record.bytes()[24..], at).unwrap();
        at += 16 + FRAME as u64;
        frames += 1;
    }
    file.set_len(at).unwrap();
    let received = lab.sensor.link_counter("eth0", "rx", "packets");
    let report = play(&lab, &path).report();
    println!("{:.1} s for {frames} frames", report.duration_s);
    assert_eq!((report.frames.seen, report.frames.sent), (frames, frames));
    assert_eq!(report.interfaces[0].bytes, frames * FRAME as u64);
    assert!(lab.sensor.link_counter("eth0", "rx", "packets") - received >= frames);
}

/// Zeros behind a pcap header are packets without a byte, a quarter of a billion of them.
#[test]
fn decompression_bombs_end_within_the_same_limit() {
    const ZEROS: usize = 64 << 20;
    const PIECES: usize = 64;
    let _turn = lock::alone();
    let (lab, scratch) = (Lab::new(), Scratch::new());
    let _bound = bound(&lab);
    let zeros = vec![0; ZEROS];
    let frame = udp_frame(1, 100);
    let mut packets = Pcap::ethernet();
    packets.packet(START, &frame);
    // One packet that says it has four gigabytes, which do come.
    let mut packet = Pcap::ethernet();
    packet.packet(START, &frame).record(START, u32::MAX, u32::MAX, &[]);
    let mut block = Pcapng::new(Order::Little);
    block.interface(link::ETHERNET, &[]).enhanced(0, START / 1_000, &frame);
    let block = [block.bytes(), &6u32.to_le_bytes(), &0xffff_fff0u32.to_le_bytes()].concat();
    let bombs: [(&str, Compress, &[u8]); 4] = [
        ("packets.gz", captures::gzip, packets.bytes()),
        ("packet.zst", captures::zstd, packet.bytes()),
        ("block.gz", captures::gzip, &block),
        ("block.zst", captures::zstd, &block),
    ];
    for (name, compress, head) in bombs {
        let path = scratch.path(name);
        let bytes = [compress(head), compress(&zeros).repeat(PIECES)].concat();
        assert!(bytes.len() < 5 << 20, "{name}: {} bytes", bytes.len());
        fs::write(&path, bytes).unwrap();
        let outcome = play(&lab, &path);
        outcome.assert_failed(1, &[name, "at byte "]);
        let report = report_of_failure(&outcome);
        assert_eq!(report.frames.sent, 1, "the packet in front: {:?}", report.frames);
        println!("{:?}", report.frames);
    }
}

/// A frame of zstd says how much of what came before it may refer to: here two gigabytes, which a reader
/// that believes it sets aside at once.
#[test]
fn zstd_window_of_2_gigabytes_is_not_set_aside() {
    let _turn = lock::alone();
    let (lab, scratch) = (Lab::new(), Scratch::new());
    let _bound = bound(&lab);
    let capture = captures::crafted(100, 1_000);
    // RFC 8878: magic, no flags, window of 2^31; then one block, the last, not compressed.
    let mut bytes = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 21 << 3];
    let block = (capture.bytes().len() as u32) << 3 | 1;
    assert!(capture.bytes().len() < 128 << 10, "longer than a block may be");
    bytes.extend(&block.to_le_bytes()[..3]);
    bytes.extend(capture.bytes());
    let path = scratch.path("window.zst");
    fs::write(&path, bytes).unwrap();
    let outcome = play(&lab, &path);
    match outcome.code() {
        0 => assert_eq!(outcome.report().frames.sent, 100),
        _ => outcome.assert_failed(1, &["window.zst"]),
    }
}

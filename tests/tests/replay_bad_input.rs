//! Bad input to `-r`: what could be played is played, the rest is named with its place, and the exit code
//! is 1; or 2 where the command line was wrong.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::{fs, ops::RangeInclusive, path::Path};

use mirror_tests::{
    agent::{self, Outcome},
    captures::{self, Order, Pcap, Pcapng, START, Unit, link},
    frames,
    lab::Lab,
    lock,
    replay::{PATIENCE, assert_bad_input, byte_position, play, play_standard_input, report_of_failure},
    report::Report,
    scratch::Scratch,
    sensor::Sensor,
};

/// Slow enough for any sensor, and not the capture's own pace.
const PACE: &str = "--pps 5000";
/// Frames in front of the damage.
const GOOD: u64 = 50;

/// A lab in which files are played that have something wrong.
struct Bench {
    lab: Lab,
    scratch: Scratch,
}

impl Bench {
    fn new() -> Self {
        Self { lab: Lab::new(), scratch: Scratch::new() }
    }

    /// Plays a file of these bytes. The crafted frames with `numbers` arrive, in this order, and the error
    /// names the file, and a byte of `place`.
    fn assert_played(
        &self,
        name: &str,
        bytes: &[u8],
        numbers: impl IntoIterator<Item = u64>,
        place: RangeInclusive<usize>,
    ) -> (Report, String) {
        let path = self.scratch.path(name);
        fs::write(&path, bytes).unwrap();
        let sensor = Sensor::keeping(&self.lab.sensor);
        let outcome = play(&self.lab, &[&path], PACE);
        let frames = sensor.finish().0;
        let line = assert_bad_input(&outcome, &[&path.display().to_string()]);
        println!("{line}");
        let at = byte_position(&line);
        assert!(
            (*place.start() as u64..=*place.end() as u64).contains(&at),
            "{at}, not in {place:?}: {line}"
        );
        let expected: Vec<_> = numbers.into_iter().map(frames::frame).collect();
        assert_eq!(frames.len(), expected.len(), "{name}: frames that arrived");
        assert!(frames == expected, "{name}: other frames than expected arrived");
        let report = report_of_failure(&outcome);
        assert_eq!(report.frames.sent, expected.len() as u64, "{name}");
        (report, line)
    }

    /// Plays a file of which nothing can be used.
    fn assert_useless(&self, path: &Path, words: &[&str]) -> Outcome {
        let outcome = play(&self.lab, &[path], PACE);
        println!("{}", assert_bad_input(&outcome, &[&[&*path.display().to_string()], words].concat()));
        outcome
    }
}

/// A pcapng file of the crafted frames with these numbers.
fn pcapng(numbers: std::ops::Range<u64>) -> Pcapng {
    let mut file = Pcapng::new(Order::Little);
    file.interface(link::ETHERNET, &[]);
    for index in numbers {
        file.enhanced(0, START / 1_000 + index, &frames::frame(index));
    }
    file
}

#[test]
fn truncated_files_are_played_up_to_where_they_end() {
    let _turn = lock::shared();
    let bench = Bench::new();
    let whole = captures::crafted(GOOD, 1_000);
    let mut longer = captures::crafted(GOOD, 1_000);
    longer.packet(START, &frames::frame(GOOD));
    let (start, end) = (whole.bytes().len(), longer.bytes().len());
    for cut in [start + 1, start + 15, start + 16, end - 1] {
        bench.assert_played("truncated.pcap", &longer.bytes()[..cut], 0..GOOD, start..=cut);
    }
    let (start, longer) = (pcapng(0..GOOD).bytes().len(), pcapng(0..GOOD + 1));
    for cut in [start + 3, start + 8, start + 40, longer.bytes().len() - 1] {
        bench.assert_played("truncated.pcapng", &longer.bytes()[..cut], 0..GOOD, start..=cut);
    }
    for cut in [1, 4, 10, 23] {
        bench.assert_played("header.pcap", &whole.bytes()[..cut], [], 0..=cut);
    }
    for cut in [4, 12, 27] {
        bench.assert_played("header.pcapng", &longer.bytes()[..cut], [], 0..=cut);
    }
}

#[test]
fn damaged_block_in_the_middle_is_the_end() {
    let _turn = lock::shared();
    let bench = Bench::new();
    let whole = pcapng(0..2 * GOOD);
    let (start, end) = (pcapng(0..GOOD).bytes().len(), pcapng(0..GOOD + 1).bytes().len());
    // The length behind the block is another than the one in front; a length that no block can have; an
    // interface that was never described; a packet longer than its block.
    for (name, at, value) in [
        ("trailing-length", end - 4, (end - start + 4) as u32),
        ("odd-length", start + 4, (end - start + 1) as u32),
        ("short-length", start + 4, 8),
        ("interface", start + 8, 7),
        ("captured-length", start + 20, 4_000),
    ] {
        let mut bytes = whole.bytes().to_vec();
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        bench.assert_played(name, &bytes, 0..GOOD, start..=end);
    }
}

#[test]
fn zero_length_packets_are_skipped_and_named() {
    let _turn = lock::shared();
    let bench = Bench::new();
    let mut file = captures::crafted(GOOD, 1_000);
    let start = file.bytes().len();
    file.packet(START, &[]).packet(START, &frames::frame(GOOD)).packet(START, &[]);
    file.packet(START, &frames::frame(GOOD + 1));
    let (report, _) = bench.assert_played("zero.pcap", file.bytes(), 0..GOOD + 2, start..=start + 16);
    assert_eq!((report.frames.copy_failed, report.frames.seen), (2, GOOD + 4), "{report:#?}");

    let mut file = pcapng(0..GOOD);
    let start = file.bytes().len();
    file.enhanced(0, START / 1_000, &[]);
    let end = file.bytes().len();
    file.enhanced(0, START / 1_000, &frames::frame(GOOD));
    let (report, _) = bench.assert_played("zero.pcapng", file.bytes(), 0..GOOD + 1, start..=end);
    assert_eq!((report.frames.copy_failed, report.frames.seen), (1, GOOD + 2), "{report:#?}");
}

#[test]
fn packets_that_no_datagram_carries_are_skipped_and_named() {
    let _turn = lock::shared();
    let bench = Bench::new();
    let mut file = captures::crafted(GOOD, 1_000);
    let start = file.bytes().len();
    file.packet(START, &[0x42; 100_000]);
    let end = file.bytes().len();
    file.packet(START, &frames::frame(GOOD));
    let (report, _) = bench.assert_played("long.pcap", file.bytes(), 0..GOOD + 1, start..=end);
    assert_eq!((report.frames.too_big, report.frames.seen), (1, GOOD + 2), "{report:#?}");

    // A length that cannot be: nothing behind it can be found.
    for captured in [u32::MAX, 0x7fff_ffff] {
        let mut file = captures::crafted(GOOD, 1_000);
        file.record(START, captured, captured, &[0x42; 1_000]).packet(START, &frames::frame(GOOD));
        bench.assert_played("damage.pcap", file.bytes(), 0..GOOD, start..=file.bytes().len());
    }
}

/// Longer than the path takes is not longer than a datagram can be.
#[test]
fn large_frames_arrive_in_fragments() {
    let _turn = lock::shared();
    let bench = Bench::new();
    let path = bench.scratch.path("large.pcap");
    let frames: Vec<_> = [1_950, 1_951, 9_000, 60_000, 65_499].map(|len| captures::udp_frame(1, len)).into();
    let mut file = Pcap::ethernet();
    for frame in &frames {
        file.packet(START, frame);
    }
    file.save(&path);
    let sensor = Sensor::keeping(&bench.lab.sensor);
    let report = play(&bench.lab, &[&path], "--pps 100").report();
    let arrived = sensor.finish().0;
    assert_eq!(arrived.len(), frames.len());
    assert!(arrived == frames);
    assert_eq!((report.frames.too_big, report.frames.sent), (0, 5));
}

#[test]
fn things_that_are_no_captures_are_named() {
    let _turn = lock::shared();
    let bench = Bench::new();
    let [empty, text, garbage, folder, missing] =
        ["empty", "text", "garbage.gz", "folder", "missing"].map(|name| bench.scratch.path(name));
    fs::write(&empty, "").unwrap();
    fs::write(&text, "This is no capture, but it is longer than the header of one.\n").unwrap();
    let noise: Vec<u8> = (1u32..1_000).flat_map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
    // The header of gzip, and a block of a type that there is not.
    let header = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 7];
    fs::write(&garbage, [&header[..], &noise].concat()).unwrap();
    fs::create_dir(&folder).unwrap();
    bench.assert_useless(&empty, &["empty"]);
    bench.assert_useless(&text, &["at byte 0"]);
    bench.assert_useless(&garbage, &["at byte 0"]);
    bench.assert_useless(&folder, &["directory"]);
    bench.assert_useless(&missing, &["No such file"]);
    fs::write(&garbage, [&[0x28, 0xb5, 0x2f, 0xfd][..], &noise].concat()).unwrap();
    bench.assert_useless(&garbage, &["at byte 0"]);
    // Compressed, but no capture.
    fs::write(&garbage, captures::gzip(&fs::read(&text).unwrap())).unwrap();
    bench.assert_useless(&garbage, &["at byte 0"]);
    assert_bad_input(&play_standard_input(&bench.lab, &empty, ""), &["empty"]);
    assert_bad_input(&play_standard_input(&bench.lab, &text, ""), &["at byte 0"]);
}

/// A header with nothing behind it is a capture of nothing.
#[test]
fn capture_without_packets_is_no_error() {
    let _turn = lock::shared();
    let bench = Bench::new();
    let path = bench.scratch.path("none");
    Pcap::ethernet().save(&path);
    assert_eq!(play(&bench.lab, &[&path], "").report().frames.seen, 0);
    pcapng(0..0).save(&path);
    assert_eq!(play(&bench.lab, &[&path], "").report().frames.seen, 0);
    // For ever of nothing would be for ever.
    assert_eq!(play(&bench.lab, &[&path], "--loop 0 --duration 5s").report().frames.seen, 0);
}

#[test]
fn damaged_compression_is_played_up_to_the_damage() {
    let _turn = lock::shared();
    let bench = Bench::new();
    let plain = captures::crafted(2_000, 1_000);
    for (name, bytes) in
        [("cut.gz", captures::gzip(plain.bytes())), ("cut.zst", captures::zstd(plain.bytes()))]
    {
        let path = bench.scratch.path(name);
        fs::write(&path, &bytes[..bytes.len() * 3 / 4]).unwrap();
        let sensor = Sensor::keeping(&bench.lab.sensor);
        let outcome = play(&bench.lab, &[&path], "--pps 20000");
        let frames = sensor.finish().0;
        let line = assert_bad_input(&outcome, &[name]);
        println!("{line}: {} frames", frames.len());
        assert!((500..2_000).contains(&frames.len()), "{name}: {} frames", frames.len());
        assert!(frames.iter().zip(0..).all(|(frame, index)| *frame == frames::frame(index)), "{name}");
        assert_eq!(report_of_failure(&outcome).frames.sent, frames.len() as u64);
        // In the capture, not in the compressed file: behind what was played.
        let played: usize = 24 + frames.iter().map(|frame| 16 + frame.len()).sum::<usize>();
        let at = byte_position(&line);
        assert!((played as u64..plain.bytes().len() as u64).contains(&at), "{name}: {at}, {played} played");
    }
    // All there, but not what the checksum at the end is of.
    let plain = captures::crafted(GOOD, 1_000);
    let mut bytes = captures::gzip(plain.bytes());
    let crc = bytes.len() - 8;
    bytes[crc] ^= 1;
    bench.assert_played("crc.gz", &bytes, 0..GOOD, 0..=plain.bytes().len());
}

#[test]
fn other_files_are_played_beside_bad_ones() {
    let _turn = lock::shared();
    let bench = Bench::new();
    let [first, cut, missing, last] =
        ["first.pcap", "cut.pcap", "missing.pcap", "last.pcapng"].map(|name| bench.scratch.path(name));
    captures::crafted(GOOD, 1_000).save(&first);
    let mut file = Pcap::new(Order::Big, Unit::Micro, link::ETHERNET);
    file.packet(START, &frames::frame(GOOD)).packet(START, &frames::frame(GOOD + 1));
    fs::write(&cut, &file.bytes()[..file.bytes().len() - 1]).unwrap();
    pcapng(GOOD + 1..GOOD + 11).save(&last);
    let sensor = Sensor::keeping(&bench.lab.sensor);
    let outcome = play(&bench.lab, &[&first, &cut, &missing, &last], PACE);
    let frames = sensor.finish().0;
    assert_bad_input(&outcome, &[]);
    for bad in [&cut, &missing] {
        assert!(outcome.stderr.contains(&bad.display().to_string()), "{outcome}");
    }
    let expected: Vec<_> = (0..GOOD + 11).map(frames::frame).collect();
    assert_eq!(frames.len(), expected.len());
    assert!(frames == expected);
    assert_eq!(report_of_failure(&outcome).frames.sent, GOOD + 11);
}

#[test]
fn wrong_command_lines_exit_2_and_name_the_value() {
    let _turn = lock::shared();
    let bench = Bench::new();
    let path = bench.scratch.path("good.pcap");
    captures::crafted(GOOD, 1_000).save(&path);
    let file = path.display();
    for (arguments, words) in [
        (format!("-r {file} -i eth0"), &["--read", "--iface"][..]),
        (format!("-r {file} --direction ingress"), &["--read", "--direction"]),
        (format!("-r {file} --ring-size 1MiB"), &["--read", "--ring-size"]),
        (format!("-r {file} --pps 10 --speed 2"), &["--pps", "--speed"]),
        (format!("-r {file} --mbps 10 --topspeed"), &["--mbps", "--topspeed"]),
        (format!("-r {file} --delay 1ms --pps 10"), &["--delay", "--pps"]),
        ("-i eth0 --pps 10".to_owned(), &["--pps", "--read"]),
        ("-i eth0 --topspeed".to_owned(), &["--topspeed", "--read"]),
        ("-i eth0 --loop 2".to_owned(), &["--loop", "--read"]),
        ("-r - --loop 2".to_owned(), &["--loop", "-"]),
        ("-r - --loop 0".to_owned(), &["--loop", "-"]),
        (format!("-r {file} --write-outer"), &["--write"]),
        (format!("-r {file} --pps 0"), &["--pps", "0"]),
        (format!("-r {file} --pps -5"), &["-5"]),
        (format!("-r {file} --speed -1"), &["-1"]),
        (format!("-r {file} --speed 0"), &["--speed", "0"]),
        (format!("-r {file} --speed nan"), &["--speed", "nan"]),
        (format!("-r {file} --mbps x"), &["--mbps", "x"]),
        (format!("-r {file} --mbps 0"), &["--mbps", "0"]),
        (format!("-r {file} --mbps inf"), &["--mbps", "inf"]),
        (format!("-r {file} --delay 5"), &["--delay", "5"]),
        (format!("-r {file} --loop -1"), &["-1"]),
        (format!("-r {file} --limit 0"), &["--limit", "0"]),
        (format!("-r {file} --transmit carrier-pigeon"), &["--transmit", "carrier-pigeon"]),
    ] {
        let outcome = agent::run(&bench.lab.router, &arguments, PATIENCE);
        println!("{arguments}: {}", outcome.stderr.lines().next().unwrap_or_default());
        assert_eq!(outcome.code(), 2, "{arguments}: {outcome}");
        outcome.assert_no_panic();
        for word in words {
            assert!(outcome.stderr.contains(word), "no {word}: {arguments}: {outcome}");
        }
        assert!(outcome.stdout.is_empty(), "{arguments}: {outcome}");
        assert_eq!(outcome.stderr.lines().count(), 1, "{arguments}: {outcome}");
    }
}

//! Ways in which a replay ends and what it says: passes, limits, times, signals.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::{
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use mirror_tests::{
    agent::{self, Agent, command},
    captures, frames,
    lab::{Lab, SENSOR},
    lock,
    replay::{PATIENCE, arguments, play},
    scratch::Scratch,
    sensor::Sensor,
};

const FRAMES: u64 = 500;

struct Bench {
    lab: Lab,
    path: PathBuf,
    _scratch: Scratch,
}

impl Bench {
    /// With a capture of half a second.
    fn new() -> Self {
        let (lab, scratch) = (Lab::new(), Scratch::new());
        let path = scratch.path("capture.pcap");
        captures::crafted(FRAMES, 1_000_000).save(&path);
        Self { lab, path, _scratch: scratch }
    }
}

/// The frames of pass after pass, in the order of the file.
fn assert_passes(frames: &[Vec<u8>], count: u64) {
    assert_eq!(frames.len() as u64, count);
    for (index, frame) in (0..).zip(frames) {
        assert_eq!(*frame, frames::frame(index % FRAMES), "frame {index}");
    }
}

#[test]
fn passes_limits_and_files_are_exact() {
    let _turn = lock::shared();
    let bench = Bench::new();
    for (more, sent) in [
        ("--pps 5000", FRAMES),
        ("--pps 5000 --loop 1", FRAMES),
        ("--pps 5000 --loop 3", 3 * FRAMES),
        ("--topspeed --loop 4", 4 * FRAMES),
        ("--pps 5000 --limit 123", 123),
        ("--topspeed --limit 321", 321),
        ("--pps 10000 --loop 0 --limit 3210", 3_210),
        ("--topspeed --loop 3 --limit 1234", 1_234),
        ("--pps 5000 --limit 5000", FRAMES),
    ] {
        let sensor = Sensor::keeping(&bench.lab.sensor);
        let report = play(&bench.lab, &[&bench.path], more).report();
        // From one sender: the order is the file's over all connections.
        let mut arrived = sensor.finish().0;
        if more.contains("--topspeed") {
            arrived.sort_by_key(|frame| frames::index_of(frame));
            let mut expected: Vec<_> = (0..sent).map(|index| frames::frame(index % FRAMES)).collect();
            expected.sort_by_key(|frame| frames::index_of(frame));
            assert!(arrived == expected, "{more}: {} of {sent} frames", arrived.len());
        } else {
            assert_passes(&arrived, sent);
        }
        assert_eq!((report.frames.seen, report.frames.sent), (sent, sent), "{more}: {report:#?}");
        if !more.contains("--limit") {
            assert_eq!(report.replay().passes, sent / FRAMES, "{more}");
        }
        assert_eq!(report.interfaces.len(), 1, "{more}: {:?}", report.interfaces);
    }
    // Two files, twice: one after the other, and again.
    let sensor = Sensor::keeping(&bench.lab.sensor);
    let copy = bench.path.with_extension("copy");
    std::fs::copy(&bench.path, &copy).unwrap();
    let report = play(&bench.lab, &[&bench.path, &copy], "--pps 10000 --loop 2").report();
    assert_passes(&sensor.finish().0, 4 * FRAMES);
    assert_eq!((report.replay().passes, report.interfaces.len()), (2, 2), "{report:#?}");
}

#[test]
fn each_pass_takes_the_captures_time() {
    let _turn = lock::alone();
    let bench = Bench::new();
    let sensor = Sensor::start(&bench.lab.sensor, Vec::new(), |times: &mut Vec<_>, datagram| {
        times.push(datagram.time)
    });
    let report = play(&bench.lab, &[&bench.path], "--loop 3").report();
    let (times, _) = sensor.finish();
    assert_eq!(times.len() as u64, 3 * FRAMES);
    for pass in times.chunks(FRAMES as usize) {
        let took = (pass[pass.len() - 1] - pass[0]) as f64 / 1e9;
        println!("{took} s");
        assert!((took - 0.499).abs() < 0.01, "{took} s for a pass of 0.499 s");
    }
    assert_eq!(report.replay().backward_timestamps, 0, "the next pass is no step back");
}

#[test]
fn duration_ends_a_replay_that_would_go_on_for_ever() {
    let _turn = lock::shared();
    let bench = Bench::new();
    let sensor = Sensor::keeping(&bench.lab.sensor);
    let report = play(&bench.lab, &[&bench.path], "--pps 2000 --loop 0 --duration 1s").report();
    assert_passes(&sensor.finish().0, report.frames.sent);
    assert!((0.9..1.6).contains(&report.duration_s), "{} s", report.duration_s);
    assert!((1_500..2_500).contains(&report.frames.sent), "{:?}", report.frames);
}

#[test]
fn signals_end_a_replay_at_once_with_0_and_a_balanced_ledger() {
    let _turn = lock::shared();
    let bench = Bench::new();
    // In the middle of a wait of 20 s, at a rate, and at top speed.
    for (signal, more) in [
        (libc::SIGINT, "--delay 20s"),
        (libc::SIGTERM, "--pps 1000 --loop 0"),
        (libc::SIGTERM, "--speed 0.0001"),
        (libc::SIGINT, "--topspeed --loop 0"),
    ] {
        let sensor = Sensor::start(&bench.lab.sensor, (), |(), _| {});
        let line = format!("{} {more}", arguments(&[&bench.path]));
        let agent = Agent::start(&bench.lab.router, &line);
        sensor.wait_for(1, Duration::from_secs(5));
        thread::sleep(Duration::from_millis(300));
        let start = Instant::now();
        agent.signal(signal);
        let report = agent.wait(PATIENCE).report();
        let took = start.elapsed();
        println!("{more}: {took:?}, {:?}", report.frames);
        assert!(took < Duration::from_secs(1), "{more}: ended after {took:?}");
        assert_eq!(report.frames.seen, report.frames.sent, "{more}: {report:#?}");
        if !more.contains("--topspeed") {
            assert_eq!(sensor.finish().1.datagrams, report.datagrams_sent, "{more}");
        }
    }
}

#[test]
fn text_goes_to_standard_error_line_by_line() {
    let _turn = lock::shared();
    let bench = Bench::new();
    let _sensor = Sensor::keeping(&bench.lab.sensor);
    let line = format!("-r {} --dest {SENSOR} --stats-interval 100ms", bench.path.display());
    let outcome = agent::run(&bench.lab.router, &line, PATIENCE);
    assert_eq!(outcome.code(), 0, "{outcome}");
    assert!(outcome.stdout.is_empty(), "{outcome}");
    let lines: Vec<_> = outcome.stderr.lines().collect();
    let start = lines.iter().position(|line| line.starts_with("mirroring ")).expect("the line at the start");
    assert!(lines.len() - start >= 6, "four times 100 ms, and the report: {outcome}");
    assert!(lines.iter().any(|line| line.contains("500")), "{outcome}");
    assert!(outcome.stderr.contains("every frame is accounted for"), "{outcome}");
    // A bar is for terminals.
    assert!(!outcome.stderr.contains(['\r', '\x1b']), "{:?}", outcome.stderr);
}

#[test]
fn quiet_replay_says_nothing() {
    let _turn = lock::shared();
    let bench = Bench::new();
    let _sensor = Sensor::keeping(&bench.lab.sensor);
    let outcome = play(&bench.lab, &[&bench.path], "-q --stats-interval 100ms");
    assert_eq!(outcome.report().frames.sent, FRAMES);
    assert_eq!(outcome.stderr, "");
    let missing = bench.path.with_extension("missing");
    let outcome = Agent::spawn(&mut command(&bench.lab.router, &format!("-q -r {}", missing.display())));
    let outcome = outcome.wait(PATIENCE);
    outcome.assert_failed(1, &["capture.missing"]);
    assert_eq!(outcome.stderr.lines().count(), 1, "what went wrong, and nothing else: {outcome}");
}

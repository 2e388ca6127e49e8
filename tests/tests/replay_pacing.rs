//! Pacing of `-r`, as the kernel's time stamps at the sensor show it.
//!
//! The rates are held for 5 seconds each; for 20 where `MIRROR_LONG_TESTS` is set.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use mirror_tests::{
    agent::{Agent, command},
    captures::{Pcap, START, udp_frame},
    lab::Lab,
    lock,
    replay::{PATIENCE, arguments, play},
    report::Report,
    scratch::Scratch,
    sensor::Sensor,
};

const SECOND: f64 = 1e9;
/// Bytes of a frame where their number does not matter.
const FRAME: usize = 128;

/// Writes a capture of frames of `len` bytes at these nanoseconds after its start.
fn capture(path: &Path, len: usize, times: impl IntoIterator<Item = u64>) {
    let mut file = Pcap::ethernet();
    for (index, time) in times.into_iter().enumerate() {
        file.packet(START + time, &udp_frame(index as u16 % 1_000, len));
    }
    file.save(path);
}

/// Plays a file, and gives when each frame arrived.
fn arrivals(lab: &Lab, file: &Path, more: &str) -> (Vec<u64>, Report) {
    let sensor =
        Sensor::start(&lab.sensor, Vec::new(), |times: &mut Vec<_>, datagram| times.push(datagram.time));
    let report = play(lab, &[file], more).report();
    let (times, _) = sensor.finish();
    assert_eq!(times.len() as u64, report.frames.sent, "{report:#?}");
    assert!(times.is_sorted(), "the clock was set, or frames changed places");
    (times, report)
}

fn length(times: &[u64]) -> f64 {
    (times[times.len() - 1] - times[0]) as f64
}

/// Frames a second, over all of these.
fn mean_rate(times: &[u64]) -> f64 {
    (times.len() - 1) as f64 * SECOND / length(times)
}

/// How much the gaps differ from `gap`, in nanoseconds, sorted.
fn gap_errors(times: &[u64], gap: f64) -> Vec<f64> {
    let mut errors: Vec<f64> =
        times.windows(2).map(|pair| ((pair[1] - pair[0]) as f64 - gap).abs()).collect();
    errors.sort_by(f64::total_cmp);
    errors
}

fn percentile(sorted: &[f64], percent: usize) -> f64 {
    sorted[(sorted.len() - 1) * percent / 100]
}

fn assert_near(value: f64, expected: f64, tolerance: f64, what: &str) {
    let error = (value - expected) / expected;
    assert!(error.abs() <= tolerance, "{what}: {value}, {:+.4} % off {expected}", error * 100.0);
}

/// Measured again where the rate was missed: on a shared machine, somebody else's load is no fault of the
/// agent's.
const ATTEMPTS: usize = 3;

fn rate_is_held(rate: u64) {
    let _turn = lock::alone();
    let (lab, scratch) = (Lab::new(), Scratch::new());
    let path = scratch.path("capture");
    let seconds = if std::env::var_os("MIRROR_LONG_TESTS").is_some() { 20 } else { 5 };
    capture(&path, FRAME, (0..10_000).map(|index| index * 77_777));
    let more = format!("--pps {rate} --loop 0 --limit {}", rate * seconds);
    for attempt in 1..=ATTEMPTS {
        let (times, report) = arrivals(&lab, &path, &more);
        assert_eq!(times.len() as u64, rate * seconds);
        let mean = mean_rate(&times);
        let errors = gap_errors(&times, SECOND / rate as f64);
        println!(
            "{rate}/s for {seconds} s: {mean:.3}/s, {:+.4} %; gap error in us: median {:.2}, 99th percentile \
             {:.2}, most {:.2}; reported late: {} ms",
            (mean / rate as f64 - 1.0) * 100.0,
            percentile(&errors, 50) / 1e3,
            percentile(&errors, 99) / 1e3,
            percentile(&errors, 100) / 1e3,
            report.replay().late_ms,
        );
        // Of the gaps, sanity only.
        if (mean / rate as f64 - 1.0).abs() <= 0.001 && percentile(&errors, 99) < 2e6 {
            return;
        }
        println!("attempt {attempt} of {ATTEMPTS} missed 0.1 %, or 2 ms at the 99th percentile");
    }
    panic!("{rate} frames a second were not held");
}

#[test]
fn thousand_frames_a_second_are_held() {
    rate_is_held(1_000);
}

#[test]
fn twenty_thousand_frames_a_second_are_held() {
    rate_is_held(20_000);
}

#[test]
fn hundred_thousand_frames_a_second_are_held() {
    rate_is_held(100_000);
}

/// Ten seconds with gaps from nothing to half a second.
fn ten_seconds() -> Vec<u64> {
    let mut times: Vec<u64> = (0..2_000u64).map(|index| index * index * 2_501 % 10_000_000_000).collect();
    times.extend([0, 10_000_000_000]);
    times.retain(|time| !(4_000_000_000..4_500_000_000).contains(time));
    times.sort_unstable();
    times
}

#[test]
fn capture_takes_its_own_time_and_a_tenth_at_speed_10() {
    let _turn = lock::alone();
    let (lab, scratch) = (Lab::new(), Scratch::new());
    let path = scratch.path("capture");
    let planned = ten_seconds();
    capture(&path, FRAME, planned.iter().copied());
    // At its own pace where nothing is said.
    for (more, speed) in [("", 1.0), ("--speed 10", 10.0)] {
        let (times, _) = arrivals(&lab, &path, more);
        assert_eq!(times.len(), planned.len());
        let mut errors: Vec<f64> = times
            .iter()
            .zip(&planned)
            .map(|(time, planned)| ((time - times[0]) as f64 - *planned as f64 / speed).abs())
            .collect();
        errors.sort_by(f64::total_cmp);
        println!(
            "speed {speed}: {:.6} s; off its time in us: median {:.1}, 99th percentile {:.1}, most {:.1}",
            length(&times) / SECOND,
            percentile(&errors, 50) / 1e3,
            percentile(&errors, 99) / 1e3,
            percentile(&errors, 100) / 1e3,
        );
        assert!((length(&times) - 10.0 * SECOND / speed).abs() < 10e6, "{} ns", length(&times));
        assert!(percentile(&errors, 50) < 1e6, "half of the frames are more than 1 ms off their times");
    }
}

/// After a stall, no more than a millisecond's frames are made up for at once, and the rate is as before.
#[test]
fn stall_is_not_followed_by_a_burst() {
    const RATE: usize = 20_000;
    const STALL: Duration = Duration::from_millis(100);
    let _turn = lock::alone();
    let (lab, scratch) = (Lab::new(), Scratch::new());
    let path = scratch.path("capture");
    capture(&path, FRAME, (0..10_000).map(|index| index * 50_000));
    let sensor =
        Sensor::start(&lab.sensor, Vec::new(), |times: &mut Vec<_>, datagram| times.push(datagram.time));
    let line = format!("{} --pps {RATE} --loop 0 --duration 3s", arguments(&[&path]));
    let agent = Agent::spawn(&mut command(&lab.router, &line));
    sensor.wait_for(RATE as u64 / 2, Duration::from_secs(20));
    agent.signal(libc::SIGSTOP);
    thread::sleep(STALL);
    agent.signal(libc::SIGCONT);
    let _ = agent.wait(PATIENCE).report();
    let (times, _) = sensor.finish();

    let (stall, gap) = times
        .windows(2)
        .map(|pair| pair[1] - pair[0])
        .enumerate()
        .max_by_key(|(_, gap)| *gap)
        .expect("frames");
    let after = &times[stall + 1..];
    let window = 1_000_000;
    let most = (0..after.len())
        .map(|first| after[first..].partition_point(|time| *time < after[first] + window))
        .max()
        .unwrap();
    println!(
        "a stall of {:.1} ms, then at most {most} frames in a millisecond, {:.2}/s in all, before: {:.2}/s",
        gap as f64 / 1e6,
        mean_rate(after),
        mean_rate(&times[..=stall]),
    );
    assert!(gap > 90_000_000, "there was no stall");
    assert!(after.len() > RATE, "{} frames after the stall", after.len());
    // The millisecond's own frames, those of one millisecond made up for, and some slack.
    let fair = RATE / 1_000 * 2 + 10;
    assert!(most <= fair, "{most} frames in a millisecond, {fair} are fair");
    // What was missed is either given up or made up for little by little: both are fair.
    let settled = mean_rate(&after[after.len() / 2..]) / RATE as f64;
    assert!((0.995..1.25).contains(&settled), "{settled} times the rate after the stall");
}

#[test]
fn mbps_counts_the_frames_bits() {
    let _turn = lock::alone();
    let (lab, scratch) = (Lab::new(), Scratch::new());
    let path = scratch.path("capture");
    // Sizes that take turns, at times that say nothing.
    let mut file = Pcap::ethernet();
    for index in 0..10_000 {
        file.packet(START, &udp_frame(index % 100, 64 + usize::from(index % 3) * 600));
    }
    file.save(&path);
    let (times, report) = arrivals(&lab, &path, "--mbps 30");
    let bits = (report.bytes_sent - 8 * report.frames.sent) as f64 * 8.0;
    let rate = bits / length(&times) * 1e3;
    println!("{rate:.4} Mbit/s of frames");
    assert_near(rate, 30.0, 0.002, "Mbit/s");
}

#[test]
fn delay_is_the_gap() {
    let _turn = lock::alone();
    let (lab, scratch) = (Lab::new(), Scratch::new());
    let path = scratch.path("capture");
    capture(&path, FRAME, (0..501).map(|index| index % 7 * 1_000_000_000));
    let (times, _) = arrivals(&lab, &path, "--delay 2500us");
    println!("{:.6} s", length(&times) / SECOND);
    assert_near(length(&times), 500.0 * 2.5e6, 0.002, "nanoseconds");
    assert!(percentile(&gap_errors(&times, 2.5e6), 50) < 0.5e6);
}

/// In file order, at once, and counted.
#[test]
fn times_that_go_backwards_hold_nothing_up() {
    let _turn = lock::alone();
    let (lab, scratch) = (Lab::new(), Scratch::new());
    let path = scratch.path("capture");
    let hour = 3_600_000_000_000u64;
    let planned = [0, 100, 50, 200, 300, 250, 400].map(|millis| hour + millis * 1_000_000);
    let mut file = Pcap::ethernet();
    for (index, time) in (0u16..).zip(planned) {
        file.packet(START + time, &udp_frame(index, FRAME));
    }
    // And one that is an hour back: what follows is not an hour late.
    file.packet(START, &udp_frame(7, FRAME)).packet(START + 1_000_000, &udp_frame(8, FRAME)).save(&path);
    let sensor = Sensor::keeping(&lab.sensor);
    let start = Instant::now();
    let report = play(&lab, &[&path], "").report();
    let took = start.elapsed();
    let expected: Vec<_> = (0..9).map(|flow| udp_frame(flow, FRAME)).collect();
    assert!(sensor.finish().0 == expected, "not in file order");
    println!("{took:?}: {:?}", report.replay());
    // 50 after 100, 250 after 300, and the one that is an hour back.
    assert_eq!(report.replay().backward_timestamps, 3);
    assert!(report.duration_s > 0.35 && took < Duration::from_secs(3), "{took:?}");
}

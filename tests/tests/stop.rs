//! Ways to stop: by signal at the peak of load, after a time, after a number of frames.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::{
    thread,
    time::{Duration, Instant},
};

use mirror_tests::{
    agent::{self, Agent},
    check::Check,
    generator::Generator,
    lab::{Lab, RUN},
    lock,
    sensor::Sensor,
    tap::Tap,
};

/// Frames that a flood repeats.
const POOL: u64 = 512;

fn stops_under_full_load(signal: i32, arguments: &str) {
    let _turn = lock::alone();
    let lab = Lab::new();
    // Something is bound to the port, so that the sensor's host answers with nothing. It need not keep up:
    // the tap counts what arrives.
    let _bound = lab.sensor.within(|| std::net::UdpSocket::bind("10.20.0.2:4789").unwrap());
    let arrived = Tap::incoming_vxlan(&lab.sensor, "eth0");
    let agent = Agent::start(&lab.router, &format!("{RUN} {arguments}"));
    let flood = Generator::new("eth0").flood(&lab.client, 0..POOL);
    thread::sleep(Duration::from_secs(2));
    let at_signal = flood.sent();
    let start = Instant::now();
    agent.signal(signal);
    let outcome = agent.wait(Duration::from_secs(15));
    let took = start.elapsed();
    let still_sending = flood.sent() > at_signal;
    let sent = flood.stop();
    let report = outcome.report();
    println!(
        "{:.2} M frames/s offered; stopped in {took:?}; {:?}",
        sent.frames as f64 / sent.time.as_secs_f64() / 1e6,
        report.frames
    );
    assert!(still_sending, "the load was over before the agent was");
    // The generator goes flat out; how much that is depends on the processor that the agent leaves it.
    assert!(report.frames.seen > 100_000, "this was no load: {:?}", report.frames);
    assert!(report.frames.seen <= sent.frames);
    assert_eq!(arrived.count(), report.datagrams_sent, "datagrams at the sensor against those reported");
    assert_eq!(report.frames.sent, report.datagrams_sent);
    assert!(took < Duration::from_secs(5), "stopping took {took:?}");
}

#[test]
fn sigterm_at_the_peak_of_load_ends_with_0_and_a_balanced_ledger() {
    stops_under_full_load(libc::SIGTERM, "");
}

#[test]
fn sigint_at_the_peak_of_load_ends_with_0_and_a_balanced_ledger() {
    stops_under_full_load(libc::SIGINT, "--cpu 0,1 --ring-size 1MiB");
}

#[test]
fn limit_ends_after_exactly_so_many_frames() {
    let _turn = lock::shared();
    let lab = Lab::new();
    let sensor = Sensor::start(&lab.sensor, Check::new(0..1_000), |check, datagram| check.look(datagram));
    let agent = Agent::start(&lab.router, &format!("{RUN} --cpu 1 --limit 1000"));
    Generator::new("eth0").rate(10_000).send(&lab.client, 0..5_000);
    let report = agent.wait(Duration::from_secs(5)).report();
    let (check, totals) = sensor.finish();
    assert_eq!(report.frames.sent, 1_000);
    assert_eq!(totals.datagrams, 1_000);
    check.assert_complete();
}

#[test]
fn limit_is_exact_under_full_load_with_two_rings() {
    let _turn = lock::alone();
    let lab = Lab::new();
    let sensor = Sensor::keeping(&lab.sensor);
    let agent = Agent::start(&lab.router, &format!("{RUN} --cpu 0,1 --limit 12345"));
    let flood = Generator::new("eth0").flood(&lab.client, 0..POOL);
    let report = agent.wait(Duration::from_secs(10)).report();
    flood.stop();
    println!("{:?}", report.frames);
    assert_eq!(report.frames.sent, 12_345);
    assert_eq!(sensor.finish().0.len(), 12_345);
}

#[test]
fn duration_ends_the_run() {
    let _turn = lock::shared();
    let lab = Lab::new();
    let sensor = Sensor::start(&lab.sensor, Check::new(0..100_000), |check, datagram| check.look(datagram));
    let agent = Agent::start(&lab.router, &format!("{RUN} --duration 1s"));
    let start = Instant::now();
    let load = Generator::new("eth0").rate(5_000).start(&lab.client, 0..100_000);
    let report = agent.wait(Duration::from_secs(5)).report();
    let took = start.elapsed().as_secs_f64();
    load.stop();
    let (check, totals) = sensor.finish();
    check.assert_right();
    assert!((0.8..2.0).contains(&took), "{took} s for --duration 1s");
    assert!((0.9..1.6).contains(&report.duration_s), "{} s in the report", report.duration_s);
    assert!((2_000..10_000).contains(&report.frames.sent), "{:?}", report.frames);
    assert_eq!(totals.datagrams, report.frames.sent);
}

#[test]
fn stats_interval_prints_lines_and_the_report_is_text_by_default() {
    let _turn = lock::shared();
    let lab = Lab::new();
    let _sensor = Sensor::keeping(&lab.sensor);
    let arguments = "--iface eth0 --dest 10.20.0.2 --duration 1100ms --stats-interval 200ms";
    let agent = Agent::start(&lab.router, arguments);
    let ready = agent.stderr().len();
    Generator::new("eth0").rate(1_000).send(&lab.client, 0..500);
    let outcome = agent.wait(Duration::from_secs(5));
    assert_eq!(outcome.code(), 0, "{outcome}");
    assert!(outcome.stdout.is_empty(), "a text report goes to standard error: {outcome}");
    let lines: Vec<&str> = outcome.stderr[ready..].lines().collect();
    let with_count = lines.iter().filter(|line| line.contains("500")).count();
    assert!(lines.len() >= 5, "five times 200 ms, and the report: {outcome}");
    assert!(with_count >= 2, "the count of 500 in a line of the last 500 ms and in the report: {outcome}");
}

#[test]
fn quiet_run_says_nothing() {
    let _turn = lock::shared();
    let lab = Lab::new();
    let _sensor = Sensor::keeping(&lab.sensor);
    let arguments = "--iface eth0 --dest 10.20.0.2 --duration 300ms -q --report json";
    let outcome = agent::run(&lab.router, arguments, Duration::from_secs(10));
    let _ = outcome.report();
    assert_eq!(outcome.stderr, "");
}

//! A million frames of every kind at 100,000 a second: each arrives, byte for byte and in order.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::time::Duration;

use mirror_tests::{
    agent::Agent,
    check::Check,
    generator::Generator,
    lab::{Lab, MIRRORED, RUN},
    lock,
    sensor::Sensor,
};

const FRAMES: u64 = 1_000_000;
const RATE: u64 = 100_000;

fn a_million_frames(arguments: &str) {
    let _turn = lock::alone();
    let lab = Lab::new();
    let sensor = Sensor::start(&lab.sensor, Check::new(0..FRAMES), |check, datagram| check.look(datagram));
    let agent = Agent::start(&lab.router, &format!("{RUN} {arguments}"));
    let sent = Generator::new("eth0").rate(RATE).send(&lab.client, 0..FRAMES);
    let report = agent.stop_and_report();
    let (check, totals) = sensor.finish();
    println!(
        "sent {} frames in {:?}; the agent: {:?}, {} bytes; the sensor: {totals:?}, {} flows from {} ports",
        sent.frames,
        sent.time,
        report.frames,
        report.bytes_sent,
        check.flows(),
        check.ports()
    );

    let planned = Duration::from_secs(FRAMES / RATE);
    assert!(sent.time < planned.mul_f64(1.1), "the generator was too slow: {:?}", sent.time);
    check.assert_complete();
    assert_eq!(report.frames.seen, FRAMES);
    assert_eq!(report.frames.ring_full, 0);
    assert_eq!(report.frames.sent, FRAMES);
    assert_eq!(report.truncated, 0);
    assert!(report.send_errors.is_empty(), "{:?}", report.send_errors);
    assert_eq!(report.interface(MIRRORED).bytes, sent.bytes);
    assert_eq!(report.datagrams_sent, FRAMES);
    assert_eq!(totals.datagrams, FRAMES);
    assert_eq!(totals.bytes, report.bytes_sent);
    assert_eq!(report.bytes_sent, sent.bytes + 8 * FRAMES, "every datagram is a VXLAN header and a frame");
    assert_eq!(report.destinations.len(), 1);
    assert_eq!(report.destinations[0].address, "10.20.0.2:4789");
}

#[test]
fn million_frames_arrive_byte_for_byte_and_in_order() {
    a_million_frames("");
}

#[test]
fn million_frames_arrive_byte_for_byte_and_in_order_through_two_rings() {
    a_million_frames("--cpu 0,1");
}

#[test]
fn million_frames_arrive_through_a_clsact_filter() {
    a_million_frames("--attach clsact");
}

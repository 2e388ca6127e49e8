//! The receiving end: what a newcomer sees without any sensor.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use mirror_tests::{
    agent::{Agent, binary},
    frames,
    generator::Generator,
    lab::{Lab, RUN},
    lock, pcap,
    report::SinkReport,
    scratch::Scratch,
    tshark, vxlan,
};

#[test]
fn mirrored_frames_come_out_of_the_sink_as_they_went_in() {
    const FRAMES: u64 = 20_000;
    let _turn = lock::shared();
    let (lab, scratch) = (Lab::new(), Scratch::new());
    let path = scratch.path("sink.pcapng");
    let sink = Agent::start_sink(&lab.sensor, &format!("--report json -w {}", path.display()));
    assert_eq!(sink.wait_for_line("listening "), "listening on 0.0.0.0:4789");
    let agent = Agent::start(&lab.router, &format!("{RUN} --vni 77"));
    let sent = Generator::new("eth0").rate(20_000).send(&lab.client, 0..FRAMES);
    let mirrored = agent.stop_and_report();
    // What is on its way arrives before the sink is told to stop.
    std::thread::sleep(Duration::from_millis(200));
    let outcome = sink.stop();
    assert_eq!(outcome.code(), 0, "{outcome}");
    let report: SinkReport = outcome.json();
    println!("{report:?}");
    assert_eq!(report.datagrams, mirrored.datagrams_sent);
    assert_eq!(report.frames, FRAMES);
    assert!([sent.bytes, mirrored.bytes_sent].contains(&report.bytes), "{report:?} {sent:?}");
    assert_eq!((report.malformed, report.kernel_drops), (0, 0));
    assert_eq!(report.vnis, [("77".to_owned(), FRAMES)].into());

    let converted = scratch.path("converted.pcap");
    tshark::convert(&path, &converted);
    let mut packets = pcap::read(&converted);
    assert_eq!(packets.len() as u64, FRAMES);
    // One sending thread: even the order over all connections is the sender's.
    for (index, packet) in (0..).zip(packets.drain(..)) {
        assert_eq!(packet.bytes, frames::frame(index), "frame {index}");
    }
}

#[test]
fn tcpdump_reads_frames_from_the_sink_as_they_come() {
    let _turn = lock::shared();
    let lab = Lab::new();
    let line = format!("{} sink -w - | tcpdump -nlr - -c 3", binary().display());
    let mut shell = lab.sensor.command("sh");
    let shell = shell
        .args(["-c", &line])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // The sink's own standard error goes nowhere here: ask the kernel whether it listens.
    let deadline = Instant::now() + Duration::from_secs(10);
    while !lab.sensor.run("ss -lunH").contains(":4789") {
        assert!(Instant::now() < deadline, "the sink does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    let agent = Agent::start(&lab.router, RUN);
    let start = Instant::now();
    lab.client.run("ping -n -c 3 -i 0.1 -W 2 10.10.0.1");
    let output = shell.wait_with_output().unwrap();
    let took = start.elapsed();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    println!("{text}");
    assert_eq!(text.lines().count(), 3, "{text}");
    assert!(text.contains("10.10.0.2 > 10.10.0.1: ICMP echo request") || text.contains("ARP"), "{text}");
    assert!(took < Duration::from_secs(3), "after {took:?}");
    let _ = agent.stop_and_report();
}

#[test]
fn malformed_datagrams_are_counted() {
    let _turn = lock::shared();
    let lab = Lab::new();
    let sink = Agent::start_sink(&lab.sensor, "--report json");
    let frame = frames::frame(1);
    let mut datagrams: Vec<_> = [(7, 4), (0xff_ffff, 2), (0, 1)]
        .into_iter()
        .flat_map(|(vni, count)| vec![(50_000 + count, vxlan::wrap(vni, &frame)); usize::from(count)])
        .collect();
    let right: usize = datagrams.iter().map(|(_, payload)| payload.len()).sum();
    datagrams.push((50_000, Vec::new()));
    datagrams.push((50_000, vec![8, 0, 0, 0, 0, 0, 1]));
    datagrams.push((50_000, [&[0; 8][..], &frame].concat()));
    let count = datagrams.len() as u64;
    vxlan::send(&lab.router, "10.20.0.2:4789", datagrams);
    std::thread::sleep(Duration::from_millis(200));
    let outcome = sink.stop();
    assert_eq!(outcome.code(), 0, "{outcome}");
    let report: SinkReport = outcome.json();
    println!("{report:?}");
    assert_eq!(report.datagrams, count);
    assert_eq!(report.malformed, 3);
    assert_eq!(report.frames, 7);
    let vnis = [("0", 1), ("16777215", 2), ("7", 4)];
    assert_eq!(report.vnis, vnis.map(|(vni, frames)| (vni.to_owned(), frames)).into());
    assert_eq!(report.kernel_drops, 0);
    assert!([right as u64, 7 * frame.len() as u64].contains(&report.bytes), "{report:?}");
}

#[test]
fn port_in_use_is_named() {
    let _turn = lock::shared();
    let lab = Lab::new();
    let _first = Agent::start_sink(&lab.sensor, "");
    let second = mirror_tests::agent::run(&lab.sensor, "sink", Duration::from_secs(5));
    second.assert_failed(1, &["4789"]);
}

/// The default destination is this host: two commands on one machine, nothing else to say.
#[test]
fn agent_and_sink_on_one_host_need_no_destination() {
    let _turn = lock::shared();
    let lab = Lab::new();
    let sink = Agent::start_sink(&lab.router, "--report json");
    for destination in ["", "--dest localhost", "--dest 127.0.0.1:4789"] {
        let agent = Agent::start(&lab.router, &format!("--iface eth0 --report json {destination}"));
        Generator::new("eth0").rate(5_000).send(&lab.client, 0..500);
        assert_eq!(agent.stop_and_report().datagrams_sent, 500, "{destination}");
    }
    std::thread::sleep(Duration::from_millis(200));
    let report: SinkReport = sink.stop().json();
    assert_eq!((report.frames, report.malformed, report.kernel_drops), (1_500, 0, 0));
}

//! `-w`: a capture instead of datagrams, which other people's programs read.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::{
    path::Path,
    process::Stdio,
    time::{Duration, SystemTime},
};

use mirror_tests::{
    agent::{self, Agent, binary, command},
    bpf::{Direction, attached},
    command as commands, frames,
    generator::Generator,
    lab::Lab,
    lock, pcap,
    scratch::Scratch,
    tshark,
};

const FRAMES: u64 = 20_000;

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64
}

/// Reads a capture with tshark, and compares it with the crafted frames, all of which one thread sent.
fn assert_holds_all(capture: &Path, scratch: &Scratch, times: (u64, u64)) {
    let converted = scratch.path("converted.pcap");
    tshark::convert(capture, &converted);
    let packets = pcap::read(&converted);
    assert_eq!(packets.len() as u64, FRAMES);
    let mut last = times.0;
    for (index, packet) in (0..).zip(packets) {
        assert_eq!(packet.bytes, frames::frame(index), "frame {index}");
        assert!(packet.time >= last, "frame {index} at {} after one at {last}", packet.time);
        last = packet.time;
    }
    assert!(last <= times.1, "the last frame is {} ns after the end", last - times.1);
}

#[test]
fn tshark_reads_the_frames_that_were_sent_with_their_times() {
    let _turn = lock::shared();
    let (lab, scratch) = (Lab::new(), Scratch::new());
    let path = scratch.path("mirror.pcapng");
    let agent = Agent::start(&lab.router, &format!("--iface eth0 --report json -w {}", path.display()));
    let start = now();
    Generator::new("eth0").rate(20_000).send(&lab.client, 0..FRAMES);
    let end = now();
    let report = agent.stop_and_report();
    assert_eq!(report.frames.sent, FRAMES);
    assert_eq!(report.datagrams_sent, 0);
    assert_holds_all(&path, &scratch, (start, end));

    let info = commands::run(std::process::Command::new("capinfos").arg("-M").arg(&path));
    assert!(info.contains("pcapng"), "{info}");
    assert!(info.contains("nanoseconds (9)"), "{info}");
    assert!(info.contains("eth0"), "the interface's name: {info}");
}

#[test]
fn standard_output_takes_the_capture() {
    let _turn = lock::shared();
    let (lab, scratch) = (Lab::new(), Scratch::new());
    let path = scratch.path("mirror.pcapng");
    let agent = Agent::start(&lab.router, "--iface eth0 -w -");
    let start = now();
    Generator::new("eth0").rate(20_000).send(&lab.client, 0..FRAMES);
    let end = now();
    let outcome = agent.stop();
    assert_eq!(outcome.code(), 0, "{outcome}");
    std::fs::write(&path, &outcome.stdout).unwrap();
    assert_holds_all(&path, &scratch, (start, end));
}

#[test]
fn tcpdump_follows_the_capture_as_it_is_written() {
    let _turn = lock::shared();
    let lab = Lab::new();
    let mut tcpdump = lab.router.command("tcpdump");
    tcpdump.args(["-nlr", "-", "-c", "5"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut tcpdump = tcpdump.spawn().unwrap();
    let mut child = command(&lab.router, "--iface eth0 -w -");
    let mut child = child.stdout(tcpdump.stdin.take().unwrap()).stderr(Stdio::null()).spawn().unwrap();
    // Give it time to attach: its standard error is not looked at here.
    std::thread::sleep(Duration::from_secs(2));
    Generator::new("eth0").rate(1_000).send(&lab.client, 0..5);
    let start = std::time::Instant::now();
    let output = tcpdump.wait_with_output().unwrap();
    let took = start.elapsed();
    let lines = String::from_utf8_lossy(&output.stdout).lines().count();
    // Nobody reads any more: that is an end like any other.
    Generator::new("eth0").rate(1_000).send(&lab.client, 0..200);
    let deadline = std::time::Instant::now() + Duration::from_secs(5);
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break Some(status);
        }
        if std::time::Instant::now() > deadline {
            child.kill().unwrap();
            child.wait().unwrap();
            break None;
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    assert!(lines >= 5, "{}", String::from_utf8_lossy(&output.stdout));
    assert!(took < Duration::from_secs(2), "tcpdump saw the frames after {took:?}");
    assert_eq!(status.map(|status| status.code()), Some(Some(0)), "after the reader went away");
}

#[test]
fn report_in_json_and_capture_do_not_share_standard_output() {
    let _turn = lock::shared();
    let lab = Lab::new();
    let outcome =
        agent::run(&lab.router, "--iface eth0 -w - --report json --duration 200ms", Duration::from_secs(10));
    outcome.assert_no_panic();
    match outcome.code() {
        2 => assert!(outcome.stdout.is_empty(), "{outcome}"),
        code => {
            assert_eq!(code, 0, "{outcome}");
            assert!(!String::from_utf8_lossy(&outcome.stdout).contains("\"schema\""), "{outcome}");
        }
    }
}

#[test]
fn path_that_cannot_be_written_is_refused_before_anything_is_attached() {
    let _turn = lock::shared();
    let lab = Lab::new();
    for path in ["/nonexistent/mirror.pcapng", "/proc/mirror.pcapng", "/tmp"] {
        let outcome = agent::run(&lab.router, &format!("--iface eth0 -w {path}"), Duration::from_secs(10));
        outcome.assert_failed(1, &[path]);
        assert!(!outcome.stderr.contains("mirroring "), "{outcome}");
        assert_eq!(attached(&lab.router, lab.mirrored_index, Direction::Ingress), []);
    }
}

#[test]
fn full_disk_is_an_error_and_no_panic() {
    let _turn = lock::shared();
    let lab = Lab::new();
    // Where the header alone cannot be written, and where a buffer has to fill first.
    let agent = Agent::spawn(&mut command(&lab.router, "--iface eth0 -w /dev/full"));
    std::thread::sleep(Duration::from_millis(1_000));
    let load = Generator::new("eth0").rate(10_000).start(&lab.client, 0..100_000);
    let outcome = agent.wait(Duration::from_secs(10));
    load.stop();
    outcome.assert_failed(1, &["/dev/full"]);

    // The same on standard output, and nothing but a signal to end it.
    let line = format!("exec {} --iface eth0 -w - >/dev/full", binary().display());
    let agent = Agent::spawn(lab.router.command("sh").args(["-c", &line]));
    std::thread::sleep(Duration::from_millis(1_000));
    agent.signal(libc::SIGTERM);
    agent.wait(Duration::from_secs(10)).assert_failed(1, &[]);
}

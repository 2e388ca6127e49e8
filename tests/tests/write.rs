//! `-w`: a capture instead of datagrams, which other people's programs read.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::{
    path::{Path, PathBuf},
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
    report::Report,
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

/// A second agent truncated the file of the first before it was refused the interface.
#[test]
fn agent_that_is_refused_leaves_the_other_ones_capture_alone() {
    let _turn = lock::shared();
    let (lab, scratch) = (Lab::new(), Scratch::new());
    let path = scratch.path("mirror.pcapng");
    let arguments = format!("--iface eth0 --report json -w {}", path.display());
    let first = Agent::start(&lab.router, &arguments);
    let start = now();
    Generator::new("eth0").rate(20_000).send(&lab.client, 0..FRAMES / 2);
    let second = agent::run(&lab.router, &arguments, Duration::from_secs(10));
    second.assert_failed(1, &["eth0", "already mirrored"]);
    Generator::new("eth0").rate(20_000).send(&lab.client, FRAMES / 2..FRAMES);
    let end = now();
    assert_eq!(first.stop_and_report().frames.sent, FRAMES);
    assert_holds_all(&path, &scratch, (start, end));
}

/// A file system with room for a capture's header, and none for its frames. Unmounted when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path) -> Self {
        commands::run(
            std::process::Command::new("mount").args(["-t", "tmpfs", "-o", "size=4k", "none"]).arg(at),
        );
        Self(at.to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(&self.0).status();
    }
}

/// The error came out only when the buffer was flushed, after the limit had ended the run.
#[test]
fn disk_that_is_found_full_at_the_end_is_an_error_too() {
    let _turn = lock::shared();
    let (lab, scratch) = (Lab::new(), Scratch::new());
    let disk = SmallDisk::mount(scratch.folder());
    let path = disk.0.join("mirror.pcapng");
    let arguments = format!("--iface eth0 --report json --limit 60 -w {}", path.display());
    let agent = Agent::start(&lab.router, &arguments);
    // All at once, so that the limit is reached before anything is flushed.
    Generator::new("eth0").send(&lab.client, 0..60);
    let outcome = agent.wait(Duration::from_secs(10));
    outcome.assert_failed(1, &["mirror.pcapng", "No space left"]);
    let report: Report = outcome.json();
    report.check();
    assert!(report.frames.send_failed > 0, "{:?}", report.frames);
}

/// The thread hung in a write for ever, and the agent with it.
#[test]
fn agent_ends_although_nobody_reads_its_pipe() {
    let _turn = lock::shared();
    let (lab, scratch) = (Lab::new(), Scratch::new());
    let fifo = scratch.path("fifo");
    commands::run(std::process::Command::new("mkfifo").arg(&fifo));
    let _unread = std::fs::File::options().read(true).write(true).open(&fifo).unwrap();
    let agent = Agent::start(&lab.router, &format!("--iface eth0 --report json -w {}", fifo.display()));
    Generator::new("eth0").rate(20_000).send(&lab.client, 0..FRAMES);
    agent.signal(libc::SIGTERM);
    std::thread::sleep(Duration::from_millis(1_200));
    agent.signal(libc::SIGTERM);
    let outcome = agent.wait(Duration::from_secs(5));
    assert_eq!(outcome.code(), 1, "{outcome}");
    assert!(outcome.stderr.contains("the output takes nothing"), "{outcome}");
    let report: Report = outcome.json();
    report.check();
    assert_eq!(report.frames.seen, FRAMES);
    assert!(report.frames.send_failed > 0, "{:?}", report.frames);
}

/// Opening a FIFO waits for a reader; the signals waited with it.
#[test]
fn agent_ends_while_it_waits_for_a_reader() {
    let _turn = lock::shared();
    let (lab, scratch) = (Lab::new(), Scratch::new());
    let fifo = scratch.path("fifo");
    commands::run(std::process::Command::new("mkfifo").arg(&fifo));
    let arguments = format!("--iface eth0 -w {}", fifo.display());
    let mut agent = command(&lab.router, &arguments).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    assert!(agent.try_wait().unwrap().is_none(), "it waits");
    // SAFETY: kill touches no memory. The child has not been waited for, so the id is still its own.
    unsafe { libc::kill(agent.id() as i32, libc::SIGINT) };
    let deadline = std::time::Instant::now() + Duration::from_secs(3);
    while agent.try_wait().unwrap().is_none() {
        if std::time::Instant::now() > deadline {
            agent.kill().unwrap();
            agent.wait().unwrap();
            panic!("SIGINT did not end it");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

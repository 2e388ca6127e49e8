//! What once went wrong in a replay, each named after what broke.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::{fs, process::Command, time::Duration};

use mirror_tests::{
    agent::{Agent, Outcome, binary, run},
    captures::{Order, Pcap, Pcapng, START, udp_frame},
    lab::Lab,
    lock,
    replay::{PATIENCE, assert_bad_input, convert, play, report_of_failure},
    scratch::Scratch,
};

/// A line of the shell in which `AGENT` is the agent.
fn shell(line: &str) -> Outcome {
    let line = line.replace("AGENT", &binary().display().to_string());
    Agent::spawn(Command::new("sh").args(["-c", &line]).env_remove("RUST_LOG")).wait(PATIENCE)
}

fn ten_frames() -> Pcap {
    let mut capture = Pcap::ethernet();
    for index in 0..10 {
        capture.packet(START + index * 1_000, &udp_frame(index as u16, 100));
    }
    capture
}

#[test]
fn capture_is_not_written_over_itself() {
    let _turn = lock::shared();
    let scratch = Scratch::new();
    let path = scratch.path("a.pcap");
    ten_frames().save(&path);
    let before = fs::read(&path).unwrap();
    let name = path.display();
    for line in [format!("AGENT -r {name} -w {name}"), format!("AGENT -r - -w {name} < {name}")] {
        shell(&line).assert_failed(1, &["name another file"]);
        assert_eq!(fs::read(&path).unwrap(), before, "{line}");
    }
}

#[test]
fn output_is_left_alone_where_nothing_can_be_read() {
    let _turn = lock::shared();
    let scratch = Scratch::new();
    let kept = scratch.path("kept");
    fs::write(&kept, "kept").unwrap();
    let missing = scratch.path("missing");
    shell(&format!("AGENT -r {} -w {}", missing.display(), kept.display()))
        .assert_failed(1, &[&missing.display().to_string()]);
    assert_eq!(fs::read(&kept).unwrap(), b"kept");
    let new = scratch.path("new");
    shell(&format!("AGENT -r {} -w {}", missing.display(), new.display())).assert_failed(1, &[]);
    assert!(!new.exists());
}

#[test]
fn stray_time_stamp_holds_nothing_up() {
    let _turn = lock::shared();
    let (lab, scratch) = (Lab::new(), Scratch::new());
    let path = scratch.path("stray.pcap");
    let mut capture = Pcap::ethernet();
    let hours = 7_200_000_000_000;
    for time in [START, START - hours, START + 10_000, 0, START + 20_000] {
        capture.packet(time, &udp_frame(1, 100));
    }
    capture.save(&path);
    let report = run(
        &lab.router,
        &format!("-r {} --speed 1 --dest 10.20.0.2 --report json", path.display()),
        Duration::from_secs(10),
    )
    .report();
    assert_eq!((report.frames.sent, report.replay().backward_timestamps), (5, 1));
}

#[test]
fn other_interfaces_of_a_pcapng_are_played_beside_an_unknown_link_type() {
    let _turn = lock::shared();
    let (lab, scratch) = (Lab::new(), Scratch::new());
    let path = scratch.path("mixed.pcapng");
    let mut capture = Pcapng::new(Order::Little);
    capture.interface(1, &[]).interface(220, &[]);
    for index in 0..10 {
        capture.enhanced(0, START / 1_000 + index, &udp_frame(index as u16, 100));
        capture.enhanced(1, START / 1_000 + index, &[0; 64]);
    }
    capture.save(&path);
    let outcome = play(&lab, &[&path], "--topspeed");
    assert_bad_input(&outcome, &["link type 220", "10 packets"]);
    let report = report_of_failure(&outcome);
    assert_eq!((report.frames.seen, report.frames.sent, report.frames.copy_failed), (20, 10, 10));
}

#[test]
fn reader_that_is_gone_before_anything_came_is_an_end_like_any_other() {
    let _turn = lock::shared();
    let scratch = Scratch::new();
    let path = scratch.path("a.pcap");
    ten_frames().save(&path);
    let status = scratch.path("status");
    let (path, status_name) = (path.display(), status.display());
    shell(&format!("(sleep 0.3; AGENT -q -r {path} -w -; echo $? > {status_name}) | true"));
    for _ in 0..100 {
        if status.exists() {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(fs::read_to_string(&status).unwrap().trim(), "0");
}

#[test]
fn written_datagrams_are_counted() {
    let _turn = lock::shared();
    let (lab, scratch) = (Lab::new(), Scratch::new());
    let path = scratch.path("a.pcap");
    ten_frames().save(&path);
    let (report, packets) =
        convert(&lab, &path, &scratch.path("outer.pcapng"), "--write-outer --dest 203.0.113.5");
    assert_eq!(packets.len(), 10);
    assert_eq!((report.datagrams_sent, report.bytes_sent), (10, 10 * 108));
    assert_eq!(report.destinations[0].address, "203.0.113.5:4789");
}

#[test]
fn files_that_the_shell_spread_out_are_told_apart_from_subcommands() {
    let _turn = lock::shared();
    let lab = Lab::new();
    let outcome = run(&lab.router, "-r a.pcap b.pcap --topspeed", PATIENCE);
    outcome.assert_failed(2, &["b.pcap", "--read"]);
}

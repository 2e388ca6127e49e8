//! Frames that are longer than the path takes, or than anybody wants: cut, left out, or in pieces, and counted.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::time::Duration;

use mirror_tests::{
    agent::{self, Agent},
    capture::Capture,
    captures::{Pcap, udp_frame},
    generator::Generator,
    host::Host,
    lab::{Lab, RUN, UPLINK},
    link::veth,
    lock,
    report::Report,
    scratch::Scratch,
    sensor::Sensor,
    tshark,
};

/// Bytes of the outer headers from IP on.
const OUTER_V4: usize = 20 + 8 + 8;
const OUTER_V6: usize = 40 + 8 + 8;

const FRAMES: usize = 400;

/// Frames around what fits into packets of 1500 bytes.
fn frames() -> Vec<Vec<u8>> {
    [60, 1514, 1500 - OUTER_V6, 1500 - OUTER_V6 + 1, 1500 - OUTER_V4, 1500 - OUTER_V4 + 1]
        .into_iter()
        .cycle()
        .take(FRAMES)
        .enumerate()
        .map(|(index, length)| udp_frame(index as u16, length))
        .collect()
}

/// Mirrors [`frames`] over a path of 1500 bytes. Returns what was reported and received, and tshark's rows of
/// IP fragmentation.
fn mirrored(options: &str, dest: &str) -> (Report, Vec<Vec<u8>>, Vec<Vec<String>>) {
    let (lab, scratch) = (Lab::with_ipv6(), Scratch::new());
    lab.router.mtu(UPLINK, 1500);
    lab.sensor.mtu("eth0", 1500);
    let sensor = Sensor::keeping(&lab.sensor);
    let capture = Capture::start(&lab.sensor, "eth0", &scratch.path("path.pcap"), "udp or ip6 proto 44");
    let agent =
        Agent::start(&lab.router, &format!("-i eth0 --direction ingress -d {dest} --report json {options}"));
    Generator::new("eth0").rate(2_000).send_frames(&lab.client, frames());
    let report = agent.stop_and_report();
    let (mut received, _) = sensor.finish();
    let rows = tshark::fields(
        &capture.stop(),
        "",
        &["ip.flags.df", "ip.flags.mf", "ip.frag_offset", "ipv6.fraghdr.offset", "frame.len"],
        &["ip.defragment:FALSE", "ipv6.defragment:FALSE"],
    );
    // Neighbour discovery between client and router.
    received.retain(|frame| frame[..2] != [0x33, 0x33] && frame[12..14] != [0x86, 0xdd]);
    (report, received, rows)
}

fn each_way(check: impl Fn(&str, &str, usize)) {
    for way in ["--transmit udp", "--transmit packet", "--mode redirect"] {
        for (dest, fits) in [("10.20.0.2", 1500 - OUTER_V4), ("fd20::2", 1500 - OUTER_V6)] {
            check(way, dest, fits);
        }
    }
}

#[test]
fn what_does_not_fit_is_cut_to_the_path_and_counted() {
    let _turn = lock::shared();
    each_way(|way, dest, fits| {
        if way == "--mode redirect" && dest.contains(':') {
            // Refused: see `what_redirect_mode_cannot_do_is_refused`.
            return;
        }
        let options = format!("{way} --oversize truncate");
        let (report, received, rows) = mirrored(&options, dest);
        let expected: Vec<Vec<u8>> =
            frames().iter().map(|frame| frame[..frame.len().min(fits)].to_vec()).collect();
        assert!(received == expected, "{options} to {dest}: {:?}", lengths(&received));
        let cut = frames().iter().filter(|frame| frame.len() > fits).count() as u64;
        assert_eq!((report.truncated, report.frames.too_big), (cut, 0), "{options} to {dest}");
        assert_eq!(report.frames.sent, report.frames.seen);
        assert_unfragmented(&rows, dest);
    });
}

#[test]
fn what_does_not_fit_is_left_out_and_counted() {
    let _turn = lock::shared();
    each_way(|way, dest, fits| {
        let options = format!("{way} --oversize drop");
        let (report, received, rows) = mirrored(&options, dest);
        let expected: Vec<Vec<u8>> = frames().into_iter().filter(|frame| frame.len() <= fits).collect();
        assert!(received == expected, "{options} to {dest}: {:?}", lengths(&received));
        assert_eq!(report.frames.too_big, (FRAMES - expected.len()) as u64, "{options} to {dest}");
        assert_eq!(report.truncated, 0);
        assert_unfragmented(&rows, dest);
    });
}

#[test]
fn what_does_not_fit_goes_in_fragments_unless_told_otherwise() {
    let _turn = lock::shared();
    each_way(|way, dest, fits| {
        if way == "--mode redirect" && dest.contains(':') {
            return redirect_over_ipv6_leaves_out_what_does_not_fit(dest, fits);
        }
        let options = way;
        let (report, received, rows) = mirrored(options, dest);
        assert!(received == frames(), "{options} to {dest}: {:?}", lengths(&received));
        assert_eq!((report.truncated, report.frames.too_big), (0, 0), "{options} to {dest}");
        let fragments = rows.iter().filter(|row| is_fragment(row)).count();
        let too_long = frames().iter().filter(|frame| frame.len() > fits).count();
        assert_eq!(fragments, 2 * too_long, "{options} to {dest}");
    });
}

/// The kernel's VXLAN devices do not fragment over IPv6, and the agent says so.
fn redirect_over_ipv6_leaves_out_what_does_not_fit(dest: &str, fits: usize) {
    let (report, received, rows) = mirrored("--mode redirect", dest);
    let expected: Vec<Vec<u8>> = frames().into_iter().filter(|frame| frame.len() <= fits).collect();
    assert!(received == expected, "{:?}", lengths(&received));
    assert_eq!(report.frames.too_big, (FRAMES - expected.len()) as u64);
    assert_unfragmented(&rows, dest);
}

fn lengths(frames: &[Vec<u8>]) -> Vec<usize> {
    frames.iter().map(Vec::len).collect()
}

/// The outer header's fields come first.
fn outermost(field: &str) -> &str {
    field.split(',').next().unwrap()
}

fn is_fragment(row: &[String]) -> bool {
    let is_later = |field: &str| !matches!(outermost(field), "" | "0");
    matches!(outermost(&row[1]), "1" | "True") || is_later(&row[2]) || !row[3].is_empty()
}

fn assert_unfragmented(rows: &[Vec<String>], dest: &str) {
    for row in rows {
        assert!(!is_fragment(row), "{row:?}");
        assert!(row[4].parse::<usize>().unwrap() <= 1514, "longer than the path takes: {row:?}");
        let forbids = matches!(outermost(&row[0]), "1" | "True");
        assert!(forbids || dest.contains(':'), "routers may cut it: {row:?}");
    }
}

/// The path gets narrower behind the next hop, whose ICMP errors say so.
#[test]
fn a_narrower_path_is_learnt_from_what_routers_answer() {
    let _turn = lock::shared();
    const NARROW: usize = 1300;
    const LONG: usize = 1400;
    const COUNT: usize = 1500;
    for transmit in ["udp", "packet"] {
        let [client, router, hop, sensor] = ["client", "router", "hop", "sensor"].map(Host::new);
        veth(&client, "eth0", &router, "eth0");
        veth(&router, "eth1", &hop, "eth0");
        veth(&hop, "eth1", &sensor, "eth0");
        for (host, iface, address) in [
            (&router, "eth1", "10.20.0.1/24"),
            (&hop, "eth0", "10.20.0.3/24"),
            (&hop, "eth1", "10.30.0.3/24"),
            (&sensor, "eth0", "10.30.0.2/24"),
        ] {
            host.address(iface, address);
        }
        hop.mtu("eth1", NARROW as u32);
        hop.set_sysctl("net/ipv4/ip_forward", "1");
        // Else a kernel tells only now and then.
        hop.set_sysctl("net/ipv4/icmp_ratelimit", "0");
        router.ip("route add default via 10.20.0.3");
        sensor.ip("route add default via 10.30.0.3");
        let receiver = Sensor::keeping(&sensor);
        let options = format!("-i eth0 -d 10.30.0.2 --report json --transmit {transmit} --oversize truncate");
        let agent = Agent::start(&router, &options);
        let frames = (0..COUNT).map(|index| udp_frame(index as u16, LONG)).collect();
        Generator::new("eth0").rate(500).send_frames(&client, frames);
        let report = agent.stop_and_report();
        let (received, _) = receiver.finish();
        println!(
            "{transmit}: {} of {COUNT} arrived, {} truncated, {:?}",
            received.len(),
            report.truncated,
            report.send_errors
        );
        assert!(received.iter().all(|frame| frame.len() == NARROW - OUTER_V4), "{:?}", lengths(&received));
        // The hop is asked once a second at the latest; its answer takes milliseconds.
        assert!(received.len() >= COUNT - 500, "{} arrived", received.len());
        assert!(report.truncated >= received.len() as u64);
        assert!(report.send_errors.contains_key("EMSGSIZE"), "{:?}", report.send_errors);
    }
}

#[test]
fn snaplen_keeps_the_first_bytes_of_each_frame() {
    for mode in ["ring", "redirect"] {
        snaplen_keeps_the_first_bytes(mode);
    }
}

fn snaplen_keeps_the_first_bytes(mode: &str) {
    let _turn = lock::shared();
    let lab = Lab::new();
    let sensor = Sensor::keeping(&lab.sensor);
    let agent = Agent::start(&lab.router, &format!("{RUN} --mode {mode} --direction ingress --snaplen 96"));
    Generator::new("eth0").rate(2_000).send_frames(&lab.client, frames());
    let report = agent.stop_and_report();
    let (received, _) = sensor.finish();
    let expected: Vec<Vec<u8>> = frames().iter().map(|frame| frame[..frame.len().min(96)].to_vec()).collect();
    assert!(received == expected, "{:?}", lengths(&received));
    assert_eq!(report.truncated, frames().iter().filter(|frame| frame.len() > 96).count() as u64);
    // What crossed the interface is told as it was.
    let bytes: usize = frames().iter().map(Vec::len).sum();
    assert_eq!(report.interface("eth0").bytes, bytes as u64);
}

#[test]
fn snaplen_holds_for_captures_that_are_read_and_written() {
    let _turn = lock::shared();
    let (host, scratch) = (Host::new("host"), Scratch::new());
    let (source, target) = (scratch.path("source.pcap"), scratch.path("target.pcapng"));
    let mut pcap = Pcap::ethernet();
    frames().iter().zip(0..).for_each(|(frame, time)| {
        pcap.packet(time * 1_000, frame);
    });
    pcap.save(&source);
    let line = format!("-r {} -w {} -s 96 --report json", source.display(), target.display());
    let outcome = agent::run(&host, &line, Duration::from_secs(10));
    assert!(outcome.status.success(), "{}", outcome.stderr);
    let rows = tshark::fields(&target, "", &["frame.cap_len", "frame.len"], &[]);
    let expected: Vec<Vec<String>> =
        frames().iter().map(|frame| vec![frame.len().min(96).to_string(), frame.len().to_string()]).collect();
    assert_eq!(rows, expected);
}

#[test]
fn lengths_that_mean_nothing_are_refused() {
    let host = Host::new("host");
    for line in ["-i lo -s 13", "-i lo -s x", "-i lo --oversize shrink", "-i lo -w a --oversize drop"] {
        let outcome = agent::run(&host, line, Duration::from_secs(10));
        assert_eq!(outcome.status.code(), Some(2), "{line}: {}", outcome.stderr);
    }
}

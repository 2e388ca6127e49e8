//! FILTER and -F, from the command line to the sensor. (What expressions mean is in filter_verdicts.rs.)

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::{
    fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use mirror_tests::{
    agent::{self, Agent, Outcome, binary},
    captures::udp_frame,
    filters,
    generator::{Generator, Running},
    lab::{Lab, RUN},
    lock, pcap,
    pcap::Packet,
    replay,
    scratch::Scratch,
    sensor::Sensor,
};

/// Every way through the kernel.
const PATHS: [&str; 5] = [
    "--mode ring --attach tcx",
    "--mode ring --attach clsact",
    "--mode redirect",
    "--hook xdp --xdp-attach native",
    "--hook xdp --xdp-attach generic",
];

/// Among them: tags that the kernel takes out before the TC hook, one and two; what begins where they were; lengths.
const EXPRESSIONS: [&str; 12] = [
    "tcp port 80",
    "vlan",
    "vlan 5 and ip",
    "vlan and vlan",
    "not vlan",
    "ether[12:4] = 0x81000005",
    "ether[15:4] & 0xffffff = 0x080045",
    "vlan and ip[2:2] + 18 = len",
    "ip6 protochain 17",
    "less 70",
    "ether[ether[13] + 14] = 0x45",
    "ether multicast and not ip",
];

/// Of the frames that all expressions are tried on, one in eight. Where redirect mode leaves a tag to the kernel's VXLAN
/// device, that takes no frame that ends within its IPv6 header.
fn some_frames(frames: Vec<Packet>) -> Vec<Packet> {
    frames.into_iter().filter(|frame| frame.bytes.len() >= 60).step_by(8).collect()
}

fn save(frames: &[Packet], path: &Path) {
    let mut capture = pcap::Writer::create(path, 262_144);
    frames.iter().for_each(|frame| capture.write(frame.time, &frame.bytes));
    capture.finish();
}

#[test]
fn what_arrives_is_what_tcpdump_takes() {
    let _turn = lock::shared();
    let scratch = Scratch::new();
    let (_, frames) = filters::capture(&scratch, filters::FRAMES);
    let frames = some_frames(frames);
    let (path, file) = (scratch.path("some.pcap"), scratch.path("filter"));
    save(&frames, &path);
    let list: Vec<Vec<u8>> = frames.iter().map(|frame| frame.bytes.clone()).collect();
    for (index, expression) in EXPRESSIONS.iter().enumerate() {
        let taken = filters::tcpdump(&scratch, &path, expression);
        let expected: Vec<&[u8]> = frames
            .iter()
            .filter(|frame| taken.contains(&((frame.time / 1_000_000_000) as usize)))
            .map(|frame| &*frame.bytes)
            .collect();
        assert!(!expected.is_empty() && expected.len() < list.len(), "{expression}");
        fs::write(&file, format!("# one of many\n{expression}")).unwrap();
        // Each way has two or three.
        let path = PATHS[index % PATHS.len()];
        let lab = Lab::new();
        let sensor = Sensor::keeping(&lab.sensor);
        let line = format!("{RUN} {path} --direction ingress -F {}", file.display());
        let agent = Agent::start(&lab.router, &line);
        Generator::new("eth0").rate(40_000).send_frames(&lab.client, list.clone());
        let report = agent.stop_and_report();
        let (received, _) = sensor.finish();
        assert!(
            received.iter().map(Vec::as_slice).eq(expected.iter().copied()),
            "{expression}, {path}: {} frames, and not {}",
            received.len(),
            expected.len()
        );
        let counts = &report.frames;
        let all = list.len() as u64;
        assert_eq!(
            (counts.seen, counts.sent + counts.filtered),
            (all, all),
            "{expression}, {path}: {counts:?}"
        );
    }
}

#[test]
fn a_replay_leaves_out_what_tcpdump_does() {
    let _turn = lock::shared();
    let (lab, scratch) = (Lab::new(), Scratch::new());
    let (path, frames) = filters::capture(&scratch, filters::FRAMES);
    let (file, out) = (scratch.path("filter"), scratch.path("out.pcapng"));
    for expression in filters::expressions().into_iter().step_by(24) {
        fs::write(&file, expression).unwrap();
        let (report, written) = replay::convert(&lab, &path, &out, &format!("-F {}", file.display()));
        let expected = filters::tcpdump(&scratch, &path, expression);
        assert_eq!(filters::numbers(&written), expected, "{expression}");
        assert_eq!(report.frames.seen, frames.len() as u64, "{expression}");
        assert_eq!(report.frames.filtered, (frames.len() - expected.len()) as u64, "{expression}");
        let bytes: usize = frames.iter().map(|frame| frame.bytes.len()).sum();
        assert_eq!(report.interfaces[0].bytes, bytes as u64);
    }
    // A limit is of frames that are wanted.
    let (report, written) = replay::convert(&lab, &path, &out, "--limit 10 udp port 53");
    let expected: Vec<usize> =
        filters::tcpdump(&scratch, &path, "udp port 53").into_iter().take(10).collect();
    assert_eq!(filters::numbers(&written).into_iter().collect::<Vec<_>>(), expected);
    assert_eq!(report.frames.sent, 10);
    assert_eq!(
        report.frames.filtered,
        expected[9] as u64 - 9,
        "what comes after the tenth was not looked at"
    );
}

/// A numbered frame, from a source port that says whether the number is even.
fn numbered(number: u32) -> Vec<u8> {
    let mut frame = udp_frame((number % 2) as u16, 100);
    frame[96..].copy_from_slice(&number.to_be_bytes());
    frame
}

fn number(frame: &[u8]) -> u32 {
    u32::from_be_bytes(frame[96..100].try_into().unwrap())
}

/// Until a good number of frames more has gone, however busy the machine is.
fn wait_for_frames(generator: &Running) {
    let enough = generator.sent() + 1_000;
    let deadline = Instant::now() + Duration::from_secs(10);
    while generator.sent() < enough && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(10));
    }
    // Those that are on their way.
    thread::sleep(Duration::from_millis(20));
}

#[test]
fn another_filter_takes_effect_between_two_frames() {
    const EVEN: &str = "udp src port 20000";
    const ODD: &str = "udp src port 20001";
    const FRAMES: u32 = 200_000;
    let _turn = lock::shared();
    for path in PATHS {
        let (lab, scratch) = (Lab::new(), Scratch::new());
        let file = scratch.path("filter");
        fs::write(&file, EVEN).unwrap();
        let sensor = Sensor::keeping(&lab.sensor);
        let list: Vec<Vec<u8>> = (0..FRAMES).map(numbered).collect();
        let generator = Generator::new("eth0").rate(20_000).start_frames(&lab.client, list);
        // While frames come by: none passes before the filter is there.
        let line = format!("{RUN} {path} --direction ingress -F {}", file.display());
        let agent = Agent::start(&lab.router, &line);
        wait_for_frames(&generator);
        fs::write(&file, "udp src prot 20001").unwrap();
        agent.signal(libc::SIGHUP);
        agent.wait_for_text(0, "the configuration stays as it was", Duration::from_secs(5));
        wait_for_frames(&generator);
        fs::write(&file, format!("{ODD} # from now on")).unwrap();
        agent.signal(libc::SIGHUP);
        let said = agent.wait_for_line("frames meet the filter");
        assert!(said.ends_with(ODD), "{said}");
        wait_for_frames(&generator);
        assert!(generator.sent() < u64::from(FRAMES), "the frames were too few for this machine");
        let report = agent.stop_and_report();
        generator.stop();
        let (received, _) = sensor.finish();
        let numbers: Vec<u32> = received.iter().map(|frame| number(frame)).collect();
        // All even ones up to some number, and all odd ones from there on.
        let first_odd = numbers
            .iter()
            .position(|number| number % 2 == 1)
            .unwrap_or_else(|| panic!("{path}: {said}: nothing came by it"));
        assert!(
            first_odd > 100 && numbers.len() > first_odd + 100,
            "{path}: {first_odd} of {}",
            numbers.len()
        );
        for (index, pair) in numbers.windows(2).enumerate() {
            let step = if index + 1 == first_odd { 1..=1 } else { 2..=2 };
            // At the change, the next odd one is the neighbour, or that one's successor.
            let is_change = index + 1 == first_odd;
            let distance = pair[1].wrapping_sub(pair[0]);
            assert!(step.contains(&distance) || is_change && distance == 3, "{path}: {pair:?} at {index}");
        }
        let counts = &report.frames;
        assert_eq!(counts.sent, received.len() as u64, "{path}");
        assert_eq!(counts.seen, counts.sent + counts.filtered, "{path}: {counts:?}");
        let difference = counts.sent.abs_diff(counts.filtered);
        assert!(difference <= 2, "{path}: every other one: {counts:?}");
    }
}

fn run(arguments: &[&str]) -> Outcome {
    let mut command = Command::new(binary());
    Agent::spawn(command.args(arguments)).wait(Duration::from_secs(20))
}

#[test]
fn a_wrong_filter_is_shown_with_its_place() {
    let scratch = Scratch::new();
    let file = scratch.path("filter");
    fs::write(&file, "# all of the web\ntcp port 80\n  or tcp port httpss # and the other\n").unwrap();
    let file = file.to_str().unwrap();
    for (arguments, message, line, caret) in [
        (&["tcp", "port"][..], "syntax error: something is missing at the end", "tcp port", "        ^"),
        (&["tcp or or udp"], "syntax error", "tcp or or udp", "       ^"),
        (&["tcp[0:3] = 1"], "data size must be 1, 2, or 4", "tcp[0:3] = 1", "      ^"),
        (&["port", "70000"], "illegal port number 70000 > 65535", "port 70000", "     ^"),
        (
            &["host", "www.example.org"],
            "host names are not looked up: use an address",
            "host www.example.org",
            "     ^",
        ),
        (
            &["-F", file],
            "line 3: unknown port 'httpss'",
            "  or tcp port httpss                ",
            "              ^",
        ),
        (&["gateway", "10.0.0.1"], "'gateway' requires a name", "gateway 10.0.0.1", "        ^"),
    ] {
        // The interface is not looked for: the filter is wrong whatever there is.
        let outcome = run(&[&["-i", "nosuch0"], arguments].concat());
        outcome.assert_failed(2, &[message]);
        let lines: Vec<_> = outcome.stderr.lines().collect();
        assert_eq!(lines[1..], [format!("    {line}"), format!("    {caret}")], "{outcome}");
    }
    run(&["-i", "eth0", "-F", "/nonexistent"]).assert_failed(2, &["/nonexistent", "No such file"]);
    run(&["-i", "eth0", "-F", file, "tcp"]).assert_failed(2, &["--filter-file", "FILTER"]);
    run(&["--dump-filter"]).assert_failed(2, &["--dump-filter", "expression"]);
}

#[test]
fn a_filter_that_is_too_large_says_its_size() {
    let _turn = lock::shared();
    let (lab, scratch) = (Lab::new(), Scratch::new());
    let file = scratch.path("filter");
    let terms = |count: u32| {
        (0..count)
            .map(|at| format!("ether[{}:4] + ether[{}:4] = {at}", at % 1000, at % 999))
            .collect::<Vec<_>>()
    };
    fs::write(&file, terms(1_500).join(" or ")).unwrap();
    let line = format!("{RUN} -F {}", file.display());
    let outcome = agent::run(&lab.router, &line, Duration::from_secs(60));
    outcome
        .assert_failed(1, &["the filter is too large for the kernel", "it has 8968 instructions", "32767"]);
    // And a thousand terms are not too many.
    fs::write(&file, terms(1_000).join(" or ")).unwrap();
    let _ = Agent::start(&lab.router, &line).stop_and_report();
}

#[test]
fn a_filter_is_printed_without_any_rights() {
    let tcpdump =
        Command::new("tcpdump").args(["-y", "EN10MB", "-d", "vlan and tcp port 443"]).output().unwrap();
    let classic = String::from_utf8(tcpdump.stdout).unwrap();
    for (hook, helper) in [("tc", "bpf_skb_load_bytes"), ("xdp", "bpf_xdp_load_bytes")] {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--"]);
        // Where nobody may read the checkout, as in a home folder, the program is found all the same.
        let copy = Path::new("/tmp").join(format!("mt-{}-agent-{hook}", std::process::id()));
        fs::copy(binary(), &copy).unwrap();
        command.arg(&copy).args(["--hook", hook, "--dump-filter", "vlan and tcp port 443"]);
        let outcome = Agent::spawn(&mut command).wait(Duration::from_secs(20));
        fs::remove_file(&copy).unwrap();
        assert_eq!(outcome.code(), 0, "{outcome}");
        let text = String::from_utf8(outcome.stdout).unwrap();
        assert!(text.contains(&classic), "{text}\n{classic}");
        assert!(text.contains(helper) && text.contains("(95) exit"), "{text}");
    }
}

//! Whatever is wrong ends in one clear line and the right exit code, or goes on and is counted.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::{process::Command, time::Duration};

use mirror_tests::{
    agent::{self, Agent, Outcome, binary},
    bpf::{Direction, attached},
    check::Check,
    generator::Generator,
    host::Host,
    lab::{Lab, MIRRORED, RUN},
    link::{veth, veth_with_index},
    lock,
    sensor::Sensor,
};

/// Longer than any refusal may take; a name server that does not answer included.
const PATIENCE: Duration = Duration::from_secs(30);

fn run(lab: &Lab, arguments: &str) -> Outcome {
    agent::run(&lab.router, arguments, PATIENCE)
}

/// A refused run has not said that it mirrors, and nothing hangs on the interface.
fn assert_nothing_attached(lab: &Lab, outcome: &Outcome) {
    assert!(!outcome.stderr.lines().any(|line| line.starts_with("mirroring ")), "{outcome}");
    for direction in [Direction::Ingress, Direction::Egress] {
        assert_eq!(attached(&lab.router, lab.mirrored_index, direction), []);
    }
    assert!(!lab.router.run("tc qdisc show dev eth0").contains("clsact"));
}

#[test]
fn unknown_interface_is_named() {
    let _turn = lock::shared();
    let lab = Lab::new();
    run(&lab, "--iface nosuch0 --dest 10.20.0.2").assert_failed(1, &["nosuch0"]);
    let outcome = run(&lab, "--iface eth0 --iface nosuch0 --dest 10.20.0.2");
    outcome.assert_failed(1, &["nosuch0"]);
    assert_nothing_attached(&lab, &outcome);
}

#[test]
fn wrong_command_lines_exit_2_and_name_the_value() {
    let _turn = lock::shared();
    let lab = Lab::new();
    for (arguments, words) in [
        ("--iface eth0 --vni 16777216", &["16777216"][..]),
        ("--iface eth0 --vni -1", &["-1"]),
        ("--iface eth0 --vni x", &["x"]),
        ("--iface eth0 --dest 10.20.0.2:0", &["0"]),
        ("--iface eth0 --dest 10.20.0.2:65536", &["65536"]),
        ("--iface eth0 --dest [fd20::2", &["[fd20::2"]),
        ("--iface eth0 --direction sideways", &["sideways"]),
        ("--iface eth0 --duration never", &["never"]),
        ("--iface eth0 --stats-interval 0", &["0"]),
        ("--iface eth0 --limit -5", &["-5"]),
        ("--iface eth0 --ring-size 3MiB", &["3MiB"]),
        ("--iface eth0 --cpu 1,x", &["x"]),
        ("--iface eth0 --cpu 3000", &["3000"]),
        ("--iface eth0 --report xml", &["xml"]),
        ("--iface eth0 --sample 0", &["0"]),
        ("--iface eth0 --sample 4 --sample-seed many", &["many"]),
        ("--iface eth0 --sample-seed 7", &["--sample-seed 7", "--max-rate"]),
        ("--iface eth0 --max-rate 100", &["100", "unit is missing"]),
        ("--iface eth0 --max-rate 100mbps", &["100mbps", "bits or bytes"]),
        ("--iface eth0 --max-rate-strict", &["--max-rate"]),
        ("--iface eth0 --no-such-option", &["--no-such-option"]),
        ("--iface an-interface-name-that-is-too-long", &["an-interface-name-that-is-too-long"]),
        ("", &["--iface"]),
        ("sink --listen nowhere:x", &["nowhere:x"]),
    ] {
        let outcome = run(&lab, arguments);
        println!("{arguments}: {}", outcome.stderr.lines().next().unwrap_or_default());
        // Some errors have their value in the next line of clap's message.
        assert_eq!(outcome.code(), 2, "{arguments}: {outcome}");
        outcome.assert_no_panic();
        for word in words {
            assert!(outcome.stderr.contains(word), "{arguments}: {outcome}");
        }
        assert!(outcome.stdout.is_empty(), "{arguments}: {outcome}");
        assert_nothing_attached(&lab, &outcome);
    }
}

#[test]
fn help_and_version_are_no_errors_and_name_only_options_that_exist() {
    let _turn = lock::shared();
    let lab = Lab::new();
    let help = run(&lab, "--help");
    assert_eq!(help.code(), 0, "{help}");
    let help = String::from_utf8(help.stdout).unwrap();
    for option in [
        "--iface",
        "--direction",
        "--dest",
        "--oversize",
        "--snaplen",
        "--sample",
        "--max-rate",
        "--write",
        "--limit",
        "--config",
        "--filter-file",
        "--exclude-iface",
        "--encap",
        "--fanout",
        "--dump-filter",
        "--metrics",
        "--control",
        "--log-format",
    ] {
        assert!(help.contains(option), "{option} is not in --help:\n{help}");
    }
    for option in ["--attach", "--xdp-attach"] {
        assert!(!help.contains(option), "{option} is in --help:\n{help}");
    }
    assert_eq!(run(&lab, "--version").code(), 0);
}

#[test]
fn destination_that_does_not_resolve_is_named() {
    let _turn = lock::shared();
    let lab = Lab::new();
    let outcome = run(&lab, "--iface eth0 --dest no-such-sensor.invalid:4789");
    outcome.assert_failed(1, &["no-such-sensor.invalid"]);
    assert_nothing_attached(&lab, &outcome);
}

#[test]
fn destination_without_a_route_is_named() {
    let _turn = lock::shared();
    let lab = Lab::new();
    let outcome = run(&lab, "--iface eth0 --dest 203.0.113.9");
    outcome.assert_failed(1, &["203.0.113.9", "route"]);
    assert_nothing_attached(&lab, &outcome);
    // This host has no IPv6 at all.
    run(&lab, "--iface eth0 --dest fd99::9").assert_failed(1, &["fd99::9"]);
}

#[test]
fn no_privilege_names_the_capability() {
    let _turn = lock::shared();
    let lab = Lab::new();
    for (setpriv, more, words) in [
        ("--bounding-set=-all --inh-caps=-all", "", &["CAP_BPF", "CAP_NET_ADMIN"][..]),
        ("--reuid=65534 --regid=65534 --clear-groups", "", &["CAP_BPF", "CAP_NET_ADMIN"]),
        ("--bounding-set=-net_admin --inh-caps=-all", "", &["CAP_NET_ADMIN"]),
        ("--bounding-set=-bpf,-sys_admin --inh-caps=-all", "", &["CAP_BPF"]),
        // Without it there are UDP sockets, unless something else is asked for: see privileges.rs.
        ("--bounding-set=-net_raw --inh-caps=-all", "--transmit packet", &["CAP_NET_RAW"]),
    ] {
        let mut command: Command = lab.router.command("setpriv");
        command.args(setpriv.split_whitespace()).arg("--").arg(binary());
        command.args(RUN.split_whitespace()).args(more.split_whitespace());
        let outcome = Agent::spawn(&mut command).wait(PATIENCE);
        println!("{setpriv}: {}", outcome.stderr.trim());
        outcome.assert_failed(1, words);
        assert_nothing_attached(&lab, &outcome);
    }
}

#[test]
fn second_agent_on_an_interface_names_the_first() {
    let _turn = lock::shared();
    for attach in ["auto", "clsact"] {
        let lab = Lab::new();
        let sensor = Sensor::start(&lab.sensor, Check::new(0..500), |check, datagram| check.look(datagram));
        let first = Agent::start(&lab.router, &format!("{RUN} --attach {attach}"));
        let second = run(&lab, &format!("{RUN} --attach {attach}"));
        println!("{}", second.stderr.trim());
        second.assert_failed(1, &[MIRRORED, &format!("pid {}", first.pid())]);
        assert!(second.stdout.is_empty(), "{second}");
        // The first goes on as if nothing had been.
        Generator::new("eth0").rate(5_000).send(&lab.client, 0..500);
        assert_eq!(first.stop_and_report().frames.sent, 500);
        sensor.finish().0.assert_complete();
        // And when it is gone there is room again.
        let _ = Agent::start(&lab.router, &format!("{RUN} --attach {attach}")).stop_and_report();
    }
}

#[test]
fn two_agents_on_two_interfaces_or_two_hosts_do_not_meet() {
    let _turn = lock::shared();
    let (lab, other) = (Lab::new(), Lab::new());
    let _sensor = Sensor::keeping(&lab.sensor);
    let _other_sensor = Sensor::keeping(&other.sensor);
    let first = Agent::start(&lab.router, RUN);
    let second = Agent::start(&lab.router, "--iface eth1 --dest 10.20.0.2 --report json");
    let third = Agent::start(&other.router, RUN);
    for agent in [first, second, third] {
        let _ = agent.stop_and_report();
    }
}

/// Nobody listens at the sensor: its ICMP errors are counted by errno, and every frame has its place in the
/// ledger. When somebody listens, the frames arrive.
#[test]
fn destination_that_refuses_is_counted_and_mirroring_goes_on() {
    let _turn = lock::shared();
    let lab = Lab::new();
    // The kernel answers each sender with a handful of ICMP errors a second unless told otherwise.
    lab.sensor.set_sysctl("net/ipv4/icmp_ratemask", "0");
    let agent = Agent::start(&lab.router, RUN);
    Generator::new("eth0").rate(1_000).send(&lab.client, 0..1_000);
    let sensor = Sensor::start(&lab.sensor, Check::new(1_000..2_000), |check, datagram| check.look(datagram));
    Generator::new("eth0").rate(1_000).send(&lab.client, 1_000..2_000);
    let report = agent.stop_and_report();
    println!("{:?}, errors {:?}", report.frames, report.send_errors);
    assert!(
        report.send_errors.get("ECONNREFUSED").is_some_and(|count| *count > 0),
        "{:?}",
        report.send_errors
    );
    assert_eq!(report.frames.seen, 2_000);
    sensor.finish().0.assert_complete();
}

/// The way to the sensor goes down under way and comes back.
#[test]
fn uplink_that_goes_down_is_counted_and_mirroring_goes_on() {
    let _turn = lock::shared();
    let lab = Lab::new();
    let sensor = Sensor::start(&lab.sensor, Check::new(0..1_500), |check, datagram| check.look(datagram));
    let agent = Agent::start(&lab.router, RUN);
    let send = |numbers| Generator::new("eth0").rate(5_000).send(&lab.client, numbers);
    send(0..500);
    sensor.wait_for(500, Duration::from_secs(5));
    lab.router.ip("link set eth1 down");
    send(500..1_000);
    lab.router.ip("link set eth1 up");
    send(1_000..1_500);
    let report = agent.stop_and_report();
    println!("{:?}, errors {:?}", report.frames, report.send_errors);
    assert_eq!(report.frames.seen, 1_500);
    let failed = report.frames.send_failed;
    if agent::is_redirecting() {
        // Until netlink has told the agent that the link is up again: some milliseconds.
        assert!((500..600).contains(&failed), "{failed} failed");
    } else {
        assert_eq!(failed, 500, "those of the time without a route");
    }
    assert_eq!(report.send_errors.values().sum::<u64>(), failed, "{:?}", report.send_errors);
    let (check, _) = sensor.finish();
    check.assert_right();
    assert_eq!(check.count(), 1_500 - failed, "those of the time before and after");
}

#[test]
fn interface_that_vanishes_is_reported_and_picked_up_when_it_returns() {
    let _turn = lock::shared();
    for attach in ["auto", "clsact"] {
        let lab = Lab::new();
        let other = Host::new("other");
        veth(&lab.router, "eth2", &other, "eth0");
        let sensor = Sensor::start(&lab.sensor, Check::new(0..4_000), |check, datagram| check.look(datagram));
        let agent = Agent::start(&lab.router, &format!("{RUN} --iface eth2 --attach {attach}"));
        Generator::new("eth0").rate(10_000).send(&lab.client, 0..1_000);
        sensor.wait_for(1_000, Duration::from_secs(5));

        let said = agent.stderr().len();
        lab.router.ip("link del eth0");
        agent.wait_for_text(said, MIRRORED, Duration::from_secs(3));
        Generator::new("eth0").rate(10_000).send(&other, 1_000..2_000);
        sensor.wait_for(2_000, Duration::from_secs(5));

        let said = agent.stderr().len();
        veth_with_index(&lab.router, MIRRORED, lab.mirrored_index ^ 0x80, &lab.client, "eth0");
        agent.wait_for_text(said, MIRRORED, Duration::from_secs(3));
        Generator::new("eth0").rate(10_000).send(&lab.client, 2_000..3_000);
        Generator::new("eth0").rate(10_000).send(&other, 3_000..4_000);
        sensor.wait_for(4_000, Duration::from_secs(5));

        let outcome = agent.stop();
        println!("{}", outcome.stderr);
        let report = outcome.report();
        sensor.finish().0.assert_complete();
        assert_eq!(report.frames.sent, 4_000);
        assert_eq!(report.interface("eth2").seen, 2_000);
        let of_eth0 = report.interfaces.iter().filter(|iface| iface.name == MIRRORED);
        assert_eq!(of_eth0.map(|iface| iface.seen).sum::<u64>(), 2_000);
    }
}

#[test]
fn interface_that_is_down_at_the_start_is_mirrored_once_it_is_up() {
    let _turn = lock::shared();
    let lab = Lab::new();
    lab.router.ip("link set eth0 down");
    let sensor = Sensor::start(&lab.sensor, Check::new(0..100), |check, datagram| check.look(datagram));
    let agent = Agent::start(&lab.router, RUN);
    lab.router.ip("link set eth0 up");
    Generator::new("eth0").rate(1_000).send(&lab.client, 0..100);
    let _ = agent.stop_and_report();
    sensor.finish().0.assert_complete();
}

#[test]
fn report_that_cannot_be_written_is_an_error() {
    let _turn = lock::shared();
    let lab = Lab::new();
    let mut command = lab.router.command("sh");
    let line = format!("exec {} {RUN} --duration 200ms >/dev/full", binary().display());
    let outcome = Agent::spawn(command.args(["-c", &line])).wait(PATIENCE);
    outcome.assert_failed(1, &[]);
}

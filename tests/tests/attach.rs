//! Beside other people's programs on the same interface, and nothing left behind, however the agent ends.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::{
    thread,
    time::{Duration, Instant},
};

use mirror_tests::{
    agent::Agent,
    bpf::{self, Attached, Direction, ForeignProgram, RunCounts, Verdict},
    capture::Capture,
    check::Check,
    command, frames,
    generator::Generator,
    host::Host,
    lab::{Lab, MIRRORED, RUN, unique_index},
    link::{veth, veth_with_index},
    lock, pcap,
    scratch::Scratch,
    sensor::Sensor,
    tap::Tap,
};

const FRAMES: u64 = 3_000;
const DETACHED: Duration = Duration::from_secs(2);

/// Everything that hangs on the mirrored interface, as the tools of the trade show it.
#[derive(Debug, PartialEq, Eq)]
struct Hooks {
    tcx: Vec<Vec<Attached>>,
    shown: Vec<String>,
}

impl Hooks {
    fn of(lab: &Lab) -> Self {
        Self {
            tcx: [Direction::Ingress, Direction::Egress]
                .map(|direction| bpf::attached(&lab.router, lab.mirrored_index, direction))
                .to_vec(),
            shown: [
                "tc filter show dev eth0 ingress",
                "tc filter show dev eth0 egress",
                "tc qdisc show dev eth0",
                "bpftool net show dev eth0",
            ]
            .map(|line| format!("{line}:\n{}", lab.router.run(line)))
            .to_vec(),
        }
    }

    /// The programs that are here and not in `before`.
    fn added(&self, before: &Self) -> Vec<Attached> {
        let known: Vec<&Attached> = before.tcx.iter().flatten().collect();
        self.tcx.iter().flatten().filter(|attached| !known.contains(attached)).copied().collect()
    }
}

/// The ids of all links on this machine.
fn links() -> Vec<u32> {
    let json = command::run(std::process::Command::new("bpftool").args(["-j", "link", "show"]));
    let list: serde_json::Value = serde_json::from_str(&json).unwrap();
    list.as_array().unwrap().iter().map(|link| link["id"].as_u64().unwrap() as u32).collect()
}

/// Waits until the interface looks as it did before: after SIGKILL the kernel takes its time.
fn assert_as_before(lab: &Lab, before: &Hooks, links_of_agent: &[u32]) {
    let deadline = Instant::now() + DETACHED;
    loop {
        let (now, left) =
            (Hooks::of(lab), links().into_iter().filter(|id| links_of_agent.contains(id)).count());
        if now == *before && left == 0 {
            return;
        }
        if Instant::now() > deadline {
            assert_eq!(now, *before);
            assert_eq!(left, 0, "links of the agent are still there");
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Runs the agent once, with traffic both ways; it ends by `signal`. Gives its link ids.
fn run_once(lab: &Lab, before: &Hooks, arguments: &str, signal: i32) -> Vec<u32> {
    let sensor =
        Sensor::start(&lab.sensor, Check::new(0..2 * FRAMES), |check, datagram| check.look(datagram));
    let agent = Agent::start(&lab.router, &format!("{RUN} {arguments}"));
    let links = Hooks::of(lab).added(before).iter().map(|attached| attached.link).collect();
    Generator::new("eth0").rate(10_000).send(&lab.client, 0..FRAMES);
    Generator::new(MIRRORED).rate(10_000).through_hooks().send(&lab.router, FRAMES..2 * FRAMES);
    sensor.wait_for(2 * FRAMES, Duration::from_secs(5));
    agent.signal(signal);
    let outcome = agent.wait(Duration::from_secs(10));
    if signal == libc::SIGTERM {
        assert_eq!(outcome.report().frames.sent, 2 * FRAMES);
    }
    let (check, totals) = sensor.finish();
    check.assert_complete();
    assert_eq!(totals.datagrams, 2 * FRAMES, "each frame once");
    links
}

/// The ways of attaching that this kernel has.
fn ways(host: &Host, index: u32) -> &'static [&'static str] {
    if bpf::has_tcx(host, index) { &["tcx", "clsact"] } else { &["clsact"] }
}

/// A program of somebody else on both TCX hooks; `None`, with a word why, where the kernel has no TCX.
fn foreign_programs(lab: &Lab, verdict: Verdict) -> Option<[ForeignProgram; 2]> {
    let attach = |direction| ForeignProgram::attach(&lab.router, lab.mirrored_index, direction, verdict);
    match (attach(Direction::Ingress), attach(Direction::Egress)) {
        (Ok(ingress), Ok(egress)) => Some([ingress, egress]),
        (Err(error), _) | (_, Err(error)) => {
            assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "cannot attach to TCX: {error}");
            println!("skipped: this kernel has no TCX");
            None
        }
    }
}

/// Somebody else's filters in both directions, that copy every frame to a veth pair. Gives a count of them.
fn foreign_filters(lab: &Lab) -> Tap {
    lab.router.ip("link add copy0 type veth peer name copy1");
    lab.router.ip("link set copy0 up");
    lab.router.ip("link set copy1 up");
    lab.router.run("tc qdisc add dev eth0 clsact");
    for direction in ["ingress", "egress"] {
        lab.router.run(&format!(
            "tc filter add dev eth0 {direction} protocol all prio 10 u32 match u32 0 0 \
             action mirred egress mirror dev copy0"
        ));
    }
    Tap::everything(&lab.router, "copy1")
}

fn beside_tcx_programs(verdict: Verdict, signal: i32) {
    let _turn = lock::shared();
    let lab = Lab::new();
    let Some(foreign) = foreign_programs(&lab, verdict) else { return };
    let _counts = RunCounts::on();
    let before = Hooks::of(&lab);
    let links = run_once(&lab, &before, "", signal);
    assert_eq!(links.len(), 2, "the agent was on both TCX hooks");
    assert!(links.iter().all(|link| *link != 0), "by a link, so that it goes with the agent");
    assert_as_before(&lab, &before, &links);
    assert_eq!(foreign.each_ref().map(ForeignProgram::runs), [FRAMES; 2], "the foreign programs ran");
}

#[test]
fn foreign_tcx_program_and_agent_both_run_and_nothing_stays() {
    beside_tcx_programs(Verdict::Next, libc::SIGTERM);
}

#[test]
fn foreign_tcx_program_that_ends_the_chain_and_agent_both_run() {
    beside_tcx_programs(Verdict::Pass, libc::SIGTERM);
}

#[test]
fn nothing_stays_beside_a_foreign_tcx_program_after_kill_9() {
    beside_tcx_programs(Verdict::Next, libc::SIGKILL);
}

#[test]
fn foreign_filter_and_agent_both_run_and_nothing_stays() {
    let _turn = lock::shared();
    let lab = Lab::new();
    let copies = foreign_filters(&lab);
    let before = Hooks::of(&lab);
    let links = run_once(&lab, &before, "", libc::SIGTERM);
    assert_as_before(&lab, &before, &links);
    assert_eq!(copies.count(), 2 * FRAMES, "the foreign filters ran");
}

#[test]
fn foreign_filter_and_clsact_agent_both_run_and_nothing_stays() {
    let _turn = lock::shared();
    let lab = Lab::new();
    let copies = foreign_filters(&lab);
    let before = Hooks::of(&lab);
    assert!(run_once(&lab, &before, "--attach clsact", libc::SIGTERM).is_empty(), "no TCX program");
    assert_as_before(&lab, &before, &[]);
    assert_eq!(copies.count(), 2 * FRAMES, "the foreign filters ran");
}

#[test]
fn clsact_agent_leaves_no_qdisc_behind_that_it_made() {
    let _turn = lock::shared();
    let lab = Lab::new();
    let before = Hooks::of(&lab);
    run_once(&lab, &before, "--attach clsact", libc::SIGTERM);
    assert_as_before(&lab, &before, &[]);
}

#[test]
fn next_start_removes_what_a_killed_clsact_agent_left_beside_a_foreign_filter() {
    let _turn = lock::shared();
    let lab = Lab::new();
    let copies = foreign_filters(&lab);
    let before = Hooks::of(&lab);
    run_once(&lab, &before, "--attach clsact", libc::SIGKILL);
    assert_ne!(Hooks::of(&lab), before, "clsact filters outlive their process: was this the clsact path?");
    run_once(&lab, &before, "--attach clsact", libc::SIGTERM);
    assert_as_before(&lab, &before, &[]);
    assert_eq!(copies.count(), 4 * FRAMES, "the foreign filters ran");
}

#[test]
fn next_start_on_tcx_removes_what_a_killed_clsact_agent_left() {
    let _turn = lock::shared();
    let lab = Lab::new();
    let before = Hooks::of(&lab);
    run_once(&lab, &before, "--attach clsact", libc::SIGKILL);
    assert_ne!(Hooks::of(&lab), before, "clsact filters outlive their process: was this the clsact path?");
    let killed = Hooks::of(&lab);
    let links = run_once(&lab, &killed, "--attach auto", libc::SIGTERM);
    assert_as_before(&lab, &before, &links);
}

#[test]
fn kill_9_leaves_nothing_on_a_bare_interface() {
    let _turn = lock::shared();
    let lab = Lab::new();
    let before = Hooks::of(&lab);
    let links = run_once(&lab, &before, "", libc::SIGKILL);
    if links.is_empty() {
        assert!(!bpf::has_tcx(&lab.router, lab.mirrored_index), "the agent was not on the TCX hooks");
        return println!("skipped: this kernel has no TCX");
    }
    assert_as_before(&lab, &before, &links);
}

/// client - bridge - server, the bridge's ports mirrored: what the server gets is what the client sent,
/// frame by frame. Both hooks of the agent are on the way.
#[test]
fn originals_cross_the_mirrored_interfaces_unchanged() {
    let _turn = lock::shared();
    let scratch = Scratch::new();
    let [client, bridge, server, sensor] = ["client", "bridge", "server", "sensor"].map(Host::new);
    let index = unique_index();
    veth_with_index(&bridge, "port0", index, &client, "eth0");
    veth(&bridge, "port1", &server, "eth0");
    veth(&bridge, "eth1", &sensor, "eth0");
    bridge.ip("link add br0 type bridge forward_delay 0 mcast_snooping 0");
    bridge.ip("link set br0 up");
    for port in ["port0", "port1"] {
        bridge.ip(&format!("link set {port} master br0"));
        // Both ends of a crafted connection are on the client's side; a bridge that knows it forwards nothing.
        bridge.ip(&format!("link set {port} type bridge_slave learning off"));
    }
    // Where the host's packet filter looks into bridged frames, it drops the broken ones among them.
    if std::fs::exists("/proc/sys/net/bridge").unwrap() {
        bridge.set_sysctl("net/bridge/bridge-nf-call-iptables", "0");
        bridge.set_sysctl("net/bridge/bridge-nf-call-ip6tables", "0");
    }
    for (host, iface) in [(&bridge, "eth1"), (&sensor, "eth0")] {
        host.mtu(iface, 2_000);
    }
    bridge.address("eth1", "10.20.0.1/24");
    sensor.address("eth0", "10.20.0.2/24");

    for attach in ways(&bridge, index) {
        let path = scratch.path(attach);
        // No filter: with `inbound`, libpcap throws the first frame away.
        let capture = Capture::start(&server, "eth0", &path, "");
        let sink = Sensor::start(&sensor, 0, |_, _| ());
        let arguments =
            format!("--iface port0 --iface port1 --dest 10.20.0.2 --report json --attach {attach}");
        let agent = Agent::start(&bridge, &arguments);
        Generator::new("eth0").rate(10_000).send(&client, 0..10_000);
        let report = agent.stop_and_report();
        assert_eq!(report.frames.sent, 20_000, "in at one port, out of the other");
        assert_eq!(sink.finish().1.datagrams, 20_000);
        let delivered = pcap::read(&capture.stop());
        for (index, packet) in (0..).zip(&delivered) {
            assert_eq!(packet.bytes, frames::frame(index), "frame {index} on the server, --attach {attach}");
        }
        assert_eq!(delivered.len(), 10_000, "--attach {attach}");
    }
}

#[test]
fn ping_and_download_work_through_the_mirrored_router() {
    let _turn = lock::shared();
    let lab = Lab::new();
    let _sensor = Sensor::keeping(&lab.sensor);
    for attach in ways(&lab.router, lab.mirrored_index) {
        let agent = Agent::start(&lab.router, &format!("{RUN} --attach {attach}"));
        let ping = lab.client.run("ping -n -c 20 -i 0.01 -W 2 10.20.0.2");
        assert!(ping.contains("20 received, 0% packet loss"), "{ping}");
        let report = agent.stop_and_report();
        assert!(report.frames.sent >= 40, "{:?}", report.frames);
    }
}

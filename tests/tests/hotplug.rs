//! Interfaces that are meant by patterns, followed as they come and go.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::{
    thread,
    time::{Duration, Instant},
};

use mirror_tests::{
    agent::{self, Agent},
    bpf::{self, Direction, ForeignProgram, Verdict},
    check::Check,
    frames,
    generator::Generator,
    holdings::Holdings,
    host::Host,
    lab::{Lab, unique_index},
    link::{veth, veth_with_index},
    lock,
    sensor::Sensor,
    swarm::{self, Arrivals},
};

const TO_SENSOR: &str = "--dest 10.20.0.2 --report json";
const SOON: Duration = Duration::from_secs(5);
/// Longest time until an interface is mirrored.
const PICKED_UP: Duration = Duration::from_millis(200);

/// Waits until `is_so`.
fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + SOON;
    while !is_so() {
        assert!(Instant::now() < deadline, "not in {SOON:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn five_hundred_interfaces_come_and_go_under_load() {
    const PAIRS: usize = 500;
    const ONE_BY_ONE: usize = 40;
    const AGAIN: usize = 100;
    const FRAMES: usize = 8;
    const LOAD: u64 = 50_000;
    let _turn = lock::alone();
    let lab = Lab::new();
    let router = &lab.router;
    let arrivals = Arrivals::of(PAIRS);
    let state = (Check::new(0..LOAD), arrivals.clone());
    let sensor = Sensor::start(&lab.sensor, state, |(check, arrivals), datagram| {
        if !arrivals.look(datagram) {
            check.look(datagram);
        }
    });
    let agent = Agent::start(router, &format!("--iface veth* --iface eth0 {TO_SENSOR}"));
    let before = Holdings::of(agent.pid());
    let entries = || Holdings::of(agent.pid()).counted();
    assert_eq!(entries(), 2, "eth0 both ways");
    let load = Generator::new("eth0").rate(8_000).start(&lab.client, 0..LOAD);

    let started = Instant::now();
    let delays = arrivals.time_creation(router, 0..PAIRS, Duration::from_secs(20));
    let creation = started.elapsed();
    println!(
        "{PAIRS} pairs made in {creation:.1?}; from the request to the first mirrored frame: median {:.1?}, 99 % {:.1?}, \
         longest {:.1?}",
        delays[PAIRS / 2],
        delays[PAIRS * 99 / 100],
        delays[PAIRS - 1]
    );

    let first = arrivals.total();
    swarm::send(router, 0..PAIRS, FRAMES);
    wait_until("all frames at the sensor", || arrivals.total() == first + (PAIRS * FRAMES) as u64);
    let full = Holdings::of(agent.pid());
    assert_eq!(full.counted(), 2 + 2 * PAIRS);
    assert_eq!((&full.programs, &full.maps), (&before.programs, &before.maps), "loaded once");

    let started = Instant::now();
    swarm::delete(router, 0..ONE_BY_ONE);
    swarm::delete_at_once(router, ONE_BY_ONE..PAIRS);
    println!("all deleted in {:.1?}", started.elapsed());
    wait_until("entries of interfaces that are gone given back", || entries() == 2);
    let after = Holdings::of(agent.pid());
    let kept = |holdings: &Holdings| (holdings.descriptors, holdings.links.len());
    assert_eq!(kept(&after), kept(&before), "descriptors and links");

    // The same names, and the same memory.
    swarm::create(router, 0..AGAIN);
    let all_entries = 2 + 2 * AGAIN;
    wait_until("attached again", || entries() == all_entries);
    thread::sleep(PICKED_UP);
    let first = arrivals.total();
    swarm::send(router, 0..AGAIN, FRAMES);
    wait_until("frames of the second round", || arrivals.total() == first + (AGAIN * FRAMES) as u64);
    swarm::delete_at_once(router, 0..AGAIN);
    wait_until("entries of the second round given back", || entries() == 2);
    let again = Holdings::of(agent.pid());
    assert_eq!(kept(&again), kept(&before));
    let memory = [&before, &full, &after, &again].map(|holdings| holdings.memory_kib);
    println!("KiB of memory before, with all, after that, and after the second round: {memory:?}");
    // What hundreds of changes at once take for a moment stays with the process; each interface leaves nothing.
    assert!(memory[3] < memory[0] + 8_192, "memory grows: {memory:?}");

    let sent = load.finish();
    let report = agent.stop_and_report();
    let ((check, arrivals), totals) = sensor.finish();
    check.assert_complete();
    assert_eq!(sent.frames, LOAD);
    assert_eq!(report.interface("eth0").seen, LOAD);
    assert_eq!(report.frames.sent, LOAD + arrivals.total(), "{:?}", report.frames);
    assert_eq!(totals.datagrams, report.datagrams_sent);
    assert_eq!(report.interfaces.len(), PAIRS + 1, "each name once");
    for pair in 0..PAIRS {
        assert_eq!(report.interface(&format!("veth{pair}")).seen, arrivals.frames(pair), "veth{pair}");
    }
    full.assert_gone();
    assert!(delays[PAIRS - 1] < PICKED_UP, "one took {:?}", delays[PAIRS - 1]);
}

/// Has an interface of its own, `NAME`, whose other end is on a host of its own.
fn pair(lab: &Lab, name: &str) -> Host {
    let other = Host::new("other");
    veth(&lab.router, name, &other, "eth0");
    other
}

#[test]
fn names_decide_what_is_mirrored_at_any_time() {
    const FRAMES: u64 = 200;
    let _turn = lock::shared();
    let lab = Lab::new();
    let router = &lab.router;
    let sensor =
        Sensor::start(&lab.sensor, Check::new(0..7 * FRAMES), |check, datagram| check.look(datagram));
    // Two patterns that overlap: one hook.
    let agent =
        Agent::start(router, &format!("-v --iface a* --iface a[0-9]* --exclude-iface a9* {TO_SENSOR}"));
    let ready = agent.wait_for_line("mirroring ");
    assert!(ready.ends_with("; there is no such interface yet: waiting for one"), "{ready}");
    let said = |needle: &str| agent.wait_for_text(0, needle, SOON);
    let mut next = 0..FRAMES;
    let mut send = |host: &Host, is_mirrored: bool| {
        Generator::new("eth0").rate(10_000).send(host, next.clone());
        if is_mirrored {
            sensor.wait_for(next.end, SOON);
            next = next.end..next.end + FRAMES;
        } else {
            thread::sleep(Duration::from_millis(100));
            assert_eq!(sensor.datagrams(), next.start, "mirrored, and should not be");
        }
    };

    let (a1, a9, b1) = (pair(&lab, "a1"), pair(&lab, "a9"), pair(&lab, "b1"));
    said("mirroring a1 too");
    send(&a1, true);
    send(&a9, false);
    send(&b1, false);

    let rename = |from: &str, to: &str| {
        router.ip(&format!("link set {from} down"));
        router.ip(&format!("link set {from} name {to}"));
        router.ip(&format!("link set {to} up"));
    };
    // Into the pattern, out of the exclusion, from one name to another, and out.
    rename("b1", "a2");
    said("mirroring a2 too");
    send(&b1, true);
    rename("a9", "a3");
    said("mirroring a3 too");
    send(&a9, true);
    rename("a1", "a4");
    said("a1 is gone");
    send(&a1, true);
    rename("a3", "c3");
    said("a3 is gone");
    send(&a9, false);
    rename("a2", "a99");
    said("a2 is gone");
    send(&b1, false);
    // The same name with another number, which adds up.
    router.ip("link del a4");
    said("a4 is gone");
    let a4 = pair(&lab, "a4");
    said("mirroring a4 too");
    send(&a4, true);
    // From another host, as a container's interface comes.
    let (from, to) = (Host::new("from"), Host::new("to"));
    veth(&from, "a5", &to, "eth0");
    from.ip(&format!("link set a5 netns {}", router.name()));
    router.ip("link set a5 up");
    said("mirroring a5 too");
    send(&to, true);
    // And goes.
    router.ip(&format!("link set a5 netns {}", from.name()));
    said("a5 is gone");
    from.ip("link set a5 up");
    send(&to, false);
    let back = pair(&lab, "a5");
    agent.wait_for_text(agent.stderr().find("a5 is gone").unwrap(), "mirroring a5 too", SOON);
    send(&back, true);

    let report = agent.stop_and_report();
    sensor.finish().0.assert_complete();
    let seen: Vec<_> = report.interfaces.iter().map(|iface| (iface.name.as_str(), iface.seen)).collect();
    let f = FRAMES;
    assert_eq!(seen, [("a1", f), ("a2", f), ("a3", f), ("a4", 2 * f), ("a5", 2 * f)]);
}

/// All interfaces, the one that leads to the sensor among them, and some that cannot be mirrored.
#[test]
fn a_star_means_all_but_lo() {
    const FRAMES: u64 = 500;
    let _turn = lock::shared();
    let lab = Lab::new();
    let router = &lab.router;
    let sensor = Sensor::start(&lab.sensor, Check::new(0..FRAMES), |check, datagram| {
        // Nor the router's own address resolution.
        if frames::index_of(datagram.frame).is_some_and(|number| number < FRAMES) {
            check.look(datagram);
        }
    });
    router.ip("tuntap add tun0 mode tun");
    let agent = Agent::start(router, &format!("--iface * {TO_SENSOR}"));
    router.run("ping -c 3 -i 0.1 127.0.0.1");
    Generator::new("eth0").rate(5_000).send(&lab.client, 0..FRAMES);
    // Looked at again and again, told once.
    thread::sleep(Duration::from_millis(2_500));
    let outcome = agent.stop();
    assert_eq!(outcome.stderr.matches("tun0").count(), 1, "{outcome}");
    assert!(outcome.stderr.contains("warn: tun0 carries no Ethernet frames"), "{outcome}");
    let report = outcome.report();
    let mut names: Vec<_> = report.interfaces.iter().map(|iface| &*iface.name).collect();
    names.sort_unstable();
    assert_eq!(names, ["eth0", "eth1"], "neither lo nor the agent's own device");
    assert_eq!(report.interface("eth0").seen, FRAMES);
    assert_eq!(report.frames.own, report.datagrams_sent, "{:?}", report.frames);
    sensor.finish().0.assert_complete();
}

/// Filters that a killed agent left are cleared by the next one, and nothing stays after that.
#[test]
fn what_a_killed_agent_left_is_cleared() {
    const PAIRS: usize = 20;
    let _turn = lock::shared();
    let router = Host::new("router");
    let filters = || {
        let shown = |pair| {
            let all = ["ingress", "egress"]
                .map(|side| router.run(&format!("tc filter show dev veth{pair} {side}")));
            all.concat().matches("direct-action").count()
        };
        (0..PAIRS).map(shown).sum::<usize>()
    };
    let qdiscs = || router.run("tc qdisc show").matches("clsact").count();
    swarm::create(&router, 0..PAIRS);
    let line = "--iface veth* --attach clsact -w /dev/null";
    let agent = Agent::start(&router, line);
    assert_eq!((filters(), qdiscs()), (2 * PAIRS, PAIRS));
    agent.signal(libc::SIGKILL);
    let _ = agent.wait(SOON);
    assert_eq!((filters(), qdiscs()), (2 * PAIRS, PAIRS), "no surprise");
    let agent = Agent::start(&router, line);
    assert_eq!((filters(), qdiscs()), (2 * PAIRS, PAIRS), "one each");
    assert_eq!(agent.stop().code(), 0);
    assert_eq!((filters(), qdiscs()), (0, 0));
}

/// Where somebody has a program on TCX hooks, it runs before any filter and may hide frames from one.
#[test]
fn filter_makes_way_for_a_tcx_hook_where_others_have_one() {
    const PAIRS: usize = 40;
    let _turn = lock::shared();
    let lab = Lab::new();
    let router = &lab.router;
    if !bpf::has_tcx(router, lab.mirrored_index) {
        return println!("skipped: this kernel has no TCX");
    }
    let index = unique_index();
    let other = Host::new("other");
    let arrivals = Arrivals::of(PAIRS);
    let sensor = Sensor::start(&lab.sensor, (arrivals.clone(), 0), |(arrivals, others), datagram| {
        *others += u64::from(!arrivals.look(datagram));
    });
    swarm::create(router, 0..PAIRS);
    let agent = Agent::start(router, &format!("-v --iface veth* {TO_SENSOR}"));
    let on_tcx = Holdings::of(agent.pid()).links.len();
    assert!((2..2 * PAIRS).contains(&on_tcx), "{on_tcx} programs are on TCX hooks");
    // The last one has a filter.
    veth_with_index(router, "veth99", index, &other, "eth0");
    agent.wait_for_text(0, "mirroring veth99 too", SOON);
    assert_eq!(bpf::attached(router, index, Direction::Ingress), []);
    let foreign = ForeignProgram::attach(router, index, Direction::Ingress, Verdict::Pass).unwrap();
    agent.wait_for_text(0, "veth99: somebody has a program", SOON);
    wait_until("the agent's program in front", || {
        let attached = bpf::attached(router, index, Direction::Ingress);
        attached.len() == 2 && attached[1].program == foreign.id()
    });
    assert!(!router.run("tc qdisc show dev veth99").contains("clsact"));
    Generator::new("eth0").rate(1_000).send(&other, 0..100);
    sensor.wait_for(100, SOON);
    let report = agent.stop_and_report();
    assert_eq!(report.interface("veth99").seen, 100);
    assert_eq!(sensor.finish().0.1, 100);
}

/// Each in front of the stack; one that has another program there is told of, once.
#[test]
fn xdp_follows_patterns_too() {
    const PAIRS: usize = 20;
    const FRAMES: usize = 10;
    if agent::is_redirecting() {
        return println!("the XDP hook is for ring mode");
    }
    let _turn = lock::shared();
    let lab = Lab::new();
    let router = &lab.router;
    let arrivals = Arrivals::of(PAIRS);
    let sensor = Sensor::start(&lab.sensor, arrivals.clone(), |arrivals, datagram| {
        assert!(arrivals.look(datagram));
    });
    let (index, other) = (unique_index(), Host::new("other"));
    veth_with_index(router, "veth99", index, &other, "eth0");
    let foreign = ForeignProgram::attach_xdp(router, index).unwrap();
    let agent = Agent::start(router, &format!("--iface veth* --hook xdp {TO_SENSOR}"));
    let delays = arrivals.time_creation(router, 0..PAIRS, SOON);
    println!("{PAIRS} pairs: median {:.1?}, longest {:.1?}", delays[PAIRS / 2], delays[PAIRS - 1]);
    let first = arrivals.total();
    swarm::send(router, 0..PAIRS, FRAMES);
    wait_until("all frames", || arrivals.total() == first + (PAIRS * FRAMES) as u64);
    thread::sleep(Duration::from_millis(1_200));
    assert_eq!(agent.stderr().matches("veth99").count(), 1, "{}", agent.stderr());
    // Taken up when the other program is gone.
    drop(foreign);
    Generator::new("eth0").rate(1_000).send(&other, 0..1);
    let entries = || Holdings::of(agent.pid()).counted();
    wait_until("attached to the last one", || entries() == PAIRS + 1);
    swarm::delete_at_once(router, 0..PAIRS);
    wait_until("entries given back", || entries() == 1);
    let report = agent.stop_and_report();
    let (arrivals, _) = sensor.finish();
    for pair in 0..PAIRS {
        assert_eq!(report.interface(&format!("veth{pair}")).seen, arrivals.frames(pair), "veth{pair}");
    }
    assert_eq!(report.interface("veth99").seen, 0);
}

#[test]
fn what_contradicts_itself_is_refused() {
    let _turn = lock::shared();
    let host = Host::new("router");
    for (line, words) in [
        ("--iface eth[0", &["--iface \"eth[0\"", "pattern"][..]),
        ("--iface veth* --exclude-iface [", &["--exclude-iface \"[\""]),
        ("--iface eth0 --exclude-iface e*", &["--iface eth0", "--exclude-iface e*"]),
        ("--exclude-iface e*", &["nothing to mirror"]),
    ] {
        agent::run(&host, &format!("{line} -w /dev/null"), SOON).assert_failed(2, words);
    }
}

/// So many messages that the kernel has to leave some out: the agent looks at everything anew.
#[test]
fn lost_messages_are_made_up_for() {
    const MESSAGES: usize = 40_000;
    const FRAMES: u64 = 100;
    let _turn = lock::shared();
    let lab = Lab::new();
    let router = &lab.router;
    let sensor =
        Sensor::start(&lab.sensor, Check::new(0..2 * FRAMES), |check, datagram| check.look(datagram));
    let (index, old) = (unique_index(), Host::new("other"));
    veth_with_index(router, "a1", index, &old, "eth0");
    let (a2, a4) = (pair(&lab, "a2"), pair(&lab, "a4"));
    let agent = Agent::start(router, &format!("-v --iface a* {TO_SENSOR}"));
    agent.signal(libc::SIGSTOP);
    let news: Vec<String> = (0..MESSAGES).map(|number| format!("link set eth0 alias {number}\n")).collect();
    swarm::batch(router, &news.concat());
    // Made again under the same number, renamed, gone, and new.
    router.ip("link del a1");
    veth_with_index(router, "a1", index, &old, "eth0");
    router.ip("link set a2 down");
    router.ip("link set a2 name b2");
    router.ip("link set b2 up");
    router.ip("link del a4");
    let a3 = pair(&lab, "a3");
    agent.signal(libc::SIGCONT);
    for line in ["mirroring a3 too", "mirroring a1 too", "a2 is gone", "a4 is gone"] {
        agent.wait_for_text(0, line, SOON);
    }
    assert!(agent.stderr().contains("netlink socket buffer full"), "nothing was lost");
    Generator::new("eth0").rate(10_000).send(&a2, 0..FRAMES);
    Generator::new("eth0").rate(10_000).send(&old, 0..FRAMES);
    Generator::new("eth0").rate(10_000).send(&a3, FRAMES..2 * FRAMES);
    sensor.wait_for(2 * FRAMES, SOON);
    let report = agent.stop_and_report();
    drop(a4);
    sensor.finish().0.assert_complete();
    assert_eq!(report.interfaces.len(), 4, "{report:?}");
    assert_eq!((report.interface("a1").seen, report.interface("a3").seen), (FRAMES, FRAMES));
}

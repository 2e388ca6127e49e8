//! Every path through the kernel, each with the same few tests: what `cargo xtask test --kernels` shows for one kernel
//! after the other. Where a kernel lacks something that a path needs, the agent refuses it with the reason, and
//! only then.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use mirror_tests::{
    agent::Agent,
    bpf::{self, Attached, Direction},
    captures::udp_frame,
    check::Check,
    connections::{self, Segment},
    flows::{self, Streams},
    frames,
    generator::Generator,
    geneve,
    lab::{Lab, MIRRORED, ROUTER, RUN, SENSOR, UPLINK, VXLAN_PORT},
    lock,
    scratch::Scratch,
    sensor::Sensor,
    swarm::{self, Arrivals},
    wire,
};

/// A mode, a hook, and how it is attached where there is a choice.
struct Path {
    arguments: &'static str,
    /// As the report names them.
    mode: &'static str,
    hook: &'static str,
    /// Whether what the host sends is mirrored too.
    sees_egress: bool,
    /// Whether the stack's pieces reach the hook: a veth pair cuts them for a native XDP program.
    sees_super_frames: bool,
    /// Where its datagrams go: GENEVE's port, or VXLAN's.
    port: u16,
    /// Whether this kernel has all that the path needs, found out without the agent.
    is_possible: fn(&Lab) -> bool,
}

/// A path is a module with all the tests: the table shows them by its name.
/// Tests of [`PATH`], by name.
macro_rules! tests {
    ($($test:ident)*) => {
        $(#[test]
        fn $test() {
            super::$test(&PATH);
        })*
    };
}

/// What every path has to show.
macro_rules! whole {
    () => {
        datagrams! {}
        tests! { nothing_stays next_start_after_kill_9_leaves_nothing }
    };
}

/// What another encapsulation has to.
macro_rules! datagrams {
    () => {
        tests! {
            frames_arrive_unchanged_and_in_order
            tcp_with_offloads_on_arrives_in_segments
            own_datagrams_are_not_mirrored
        }
    };
}

/// A module for each path, with tests of its own besides. Those go by the program on the hook: a path that has the same
/// program as another one has others.
macro_rules! paths {
    ($($name:ident $base:ident [$($more:ident)*]: $path:expr;)*) => {
        $(mod $name {
            use super::*;

            const PATH: Path = $path;

            $base! {}
            tests! { $($more)* }
        })*
    };
}

paths! {
    ring_tc_tcx whole [interfaces_of_a_pattern_are_mirrored_as_they_come]: Path {
        arguments: "--attach tcx",
        mode: "ring",
        hook: "tc",
        sees_egress: true,
        sees_super_frames: true,
        port: VXLAN_PORT,
        is_possible: |lab| bpf::has_tcx(&lab.router, lab.mirrored_index),
    };
    ring_tc_clsact whole [ flows_are_shared_out what_the_filter_refuses_is_left_out what_is_left_out_is_counted]: Path {
        arguments: "--attach clsact",
        mode: "ring",
        hook: "tc",
        sees_egress: true,
        sees_super_frames: true,
        port: VXLAN_PORT,
        is_possible: |_| true,
    };
    // XDP sees what the host receives only.
    ring_xdp_native whole [what_the_filter_refuses_is_left_out what_is_left_out_is_counted]: Path {
        arguments: "--hook xdp --xdp-attach native",
        mode: "ring",
        hook: "xdp",
        sees_egress: false,
        sees_super_frames: false,
        port: VXLAN_PORT,
        is_possible: |_| true,
    };
    ring_xdp_generic whole []: Path {
        arguments: "--hook xdp --xdp-attach generic",
        mode: "ring",
        hook: "xdp",
        sees_egress: false,
        sees_super_frames: true,
        port: VXLAN_PORT,
        is_possible: |_| true,
    };
    redirect_tc_tcx whole []: Path {
        arguments: "--mode redirect --attach tcx",
        mode: "redirect",
        hook: "tc",
        sees_egress: true,
        sees_super_frames: true,
        port: VXLAN_PORT,
        is_possible: |lab| bpf::has_tcx(&lab.router, lab.mirrored_index),
    };
    ring_geneve datagrams []: Path {
        arguments: "--encap geneve",
        mode: "ring",
        hook: "tc",
        sees_egress: true,
        sees_super_frames: true,
        port: geneve::PORT,
        is_possible: |_| true,
    };
    redirect_geneve datagrams []: Path {
        arguments: "--mode redirect --encap geneve",
        mode: "redirect",
        hook: "tc",
        sees_egress: true,
        sees_super_frames: true,
        port: geneve::PORT,
        is_possible: |_| true,
    };
    redirect_tc_clsact whole [ flows_are_shared_out what_the_filter_refuses_is_left_out what_is_left_out_is_counted interfaces_of_a_pattern_are_mirrored_as_they_come]: Path {
        arguments: "--mode redirect --attach clsact",
        mode: "redirect",
        hook: "tc",
        sees_egress: true,
        sees_super_frames: true,
        port: VXLAN_PORT,
        is_possible: |_| true,
    };
}

impl Path {
    /// Starts the agent with `more` arguments; nothing, with the reason, where the kernel cannot do this.
    fn start(&self, lab: &Lab, more: &str) -> Option<Agent> {
        let line = format!("{RUN} {} {more}", self.arguments);
        let outcome = match Agent::try_start(&lab.router, &line) {
            Ok(agent) => return Some(agent),
            Err(outcome) => outcome,
        };
        outcome.assert_failed(1, &["this kernel"]);
        assert!(!(self.is_possible)(lab), "refused, and the kernel can do it: {outcome}");
        let reason = outcome.stderr.lines().find_map(|line| line.strip_prefix("mirror-agent: "));
        println!("refused: {}", reason.unwrap());
        None
    }
}

/// Both ways: the ledger, what was sent, and what arrived are the same, byte for byte.
fn frames_arrive_unchanged_and_in_order(path: &Path) {
    const FRAMES: u64 = 2_000;
    let _turn = lock::shared();
    let lab = Lab::new();
    let all = if path.sees_egress { 2 * FRAMES } else { FRAMES };
    let has_metadata = path.port == geneve::PORT;
    let sensor = Sensor::start_on(&lab.sensor, path.port, Check::new(0..all), move |check, datagram| {
        let wire_len = datagram.told.map(|told| told.wire_len as usize);
        assert_eq!(wire_len, has_metadata.then_some(datagram.frame.len()));
        check.look(datagram);
    });
    let Some(agent) = path.start(&lab, "") else { return };
    Generator::new("eth0").rate(5_000).send(&lab.client, 0..FRAMES);
    Generator::new(MIRRORED).rate(5_000).through_hooks().send(&lab.router, FRAMES..2 * FRAMES);
    let report = agent.stop_and_report();
    let (check, totals) = sensor.finish();
    check.assert_complete();
    assert_eq!((&*report.mode, &*report.hook), (path.mode, path.hook));
    assert_eq!((report.frames.seen, report.frames.sent), (all, all), "{:?}", report.frames);
    assert_eq!((totals.datagrams, report.datagrams_sent), (all, all));
    let bytes: usize = (0..all).map(|number| frames::frame(number).len()).sum();
    assert_eq!(report.interface(MIRRORED).bytes, bytes as u64);
}

/// The hook sees pieces of up to 64 kB without checksums; the sensor gets every byte, in frames of the wire.
fn tcp_with_offloads_on_arrives_in_segments(path: &Path) {
    const BYTES: usize = 2_000_000;
    const LONGEST: usize = 1514;
    let _turn = lock::shared();
    let lab = Lab::new();
    wire::settle(&lab);
    let state = (Streams::default(), 0);
    let sensor = Sensor::start_on(&lab.sensor, path.port, state, |(streams, longest), datagram| {
        let told = datagram.told.map_or(datagram.frame.len(), |told| told.wire_len as usize);
        assert_eq!(told, datagram.frame.len(), "bytes of a segment");
        streams.look(datagram.frame);
        *longest = datagram.frame.len().max(*longest);
    });
    let Some(agent) = path.start(&lab, "") else { return };
    // As many bytes come back as go: both hooks see super-frames.
    let data: Vec<u8> = (0..BYTES).map(|at| (at * 7 + at / 251) as u8).collect();
    let listener = lab.router.within(|| TcpListener::bind((ROUTER, 7777)).unwrap());
    let echo = lab.router.thread("echo", move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut got = vec![0; BYTES];
        stream.read_exact(&mut got).unwrap();
        stream.write_all(&got).unwrap();
    });
    let sent = data.clone();
    let returned = lab.client.within(move || {
        let mut stream = TcpStream::connect((ROUTER, 7777)).unwrap();
        stream.write_all(&sent).unwrap();
        let mut returned = Vec::new();
        stream.read_to_end(&mut returned).unwrap();
        returned
    });
    echo.join().unwrap();
    assert!(returned == data, "the originals were changed");
    // The last acknowledgements.
    thread::sleep(Duration::from_millis(300));
    let report = agent.stop_and_report();
    let ((streams, longest), totals) = sensor.finish();
    assert_eq!(report.frames.sent, report.frames.seen, "a frame was lost: {:?}", report.frames);
    assert_eq!(totals.datagrams, report.datagrams_sent, "a datagram was lost");
    let expected = Some(flows::digest(&[&data]));
    let complete = streams.chosen(|stream| stream.complete() == expected).len();
    assert_eq!(complete, if path.sees_egress { 2 } else { 1 }, "directions that are mirrored to the byte");
    assert!(longest <= LONGEST, "{longest} bytes in a frame");
    let saw_super_frames = report.segments > report.frames.sent;
    assert_eq!(saw_super_frames, path.sees_super_frames, "{} segments", report.segments);
}

/// The interface that carries the mirror traffic is mirrored as well.
fn own_datagrams_are_not_mirrored(path: &Path) {
    const FRAMES: u64 = 1_000;
    let _turn = lock::shared();
    let lab = Lab::new();
    let sensor = Sensor::start_on(&lab.sensor, path.port, Vec::new(), |frames: &mut Vec<_>, datagram| {
        frames.push(datagram.frame.to_vec());
    });
    let Some(agent) = path.start(&lab, &format!("--iface {UPLINK}")) else { return };
    Generator::new("eth0").rate(2_000).send(&lab.client, 0..FRAMES);
    let report = agent.stop_and_report();
    let (received, totals) = sensor.finish();
    let echoes = received.iter().filter(|frame| is_mirror_traffic(frame, path.port)).count();
    assert_eq!(echoes, 0, "echoes");
    let is_sent = |number| number < FRAMES;
    let crafted = received.iter().filter(|frame| frames::index_of(frame).is_some_and(is_sent)).count();
    assert_eq!(crafted as u64, FRAMES);
    assert_eq!(totals.datagrams, report.frames.sent, "address resolution counts, and nothing is lost");
    if path.sees_egress {
        assert_eq!(report.frames.own, report.datagrams_sent, "each passed the hook: {:?}", report.frames);
    }
}

/// Its instructions are a part of the program, which each kernel's verifier has to take: with a tag that the kernel has
/// taken out, a loop, a division, scratch memory, and bytes that do not lie open.
fn what_the_filter_refuses_is_left_out(path: &Path) {
    // The verifier follows a loop round by round, which takes long on an emulated processor: on one hook.
    let chain = if path.hook == "xdp" { "ip6 protochain 17 or " } else { "" };
    let filter = format!(
        "({chain}udp[96:4] % 7 = 3 or ip[2:2] / udp[1] = 1000) or (vlan 5 and udp src port 20001 and \
         ip[2:2] - 20 = udp[4:2] and ether[len - 1] = 0x5a and ether[11:4] != 7)"
    );
    const FRAMES: usize = 600;
    let _turn = lock::shared();
    let (lab, scratch) = (Lab::new(), Scratch::new());
    let file = scratch.path("filter");
    fs::write(&file, filter).unwrap();
    let tagged = |flow, tag: [u8; 4]| {
        let mut frame = udp_frame(flow, 600);
        frame.splice(12..12, tag);
        frame
    };
    let wanted = tagged(1, [0x81, 0, 0, 5]);
    let kinds = [udp_frame(1, 600), tagged(2, [0x81, 0, 0, 5]), tagged(1, [0x81, 0, 0, 6]), wanted.clone()];
    let list: Vec<_> = kinds.into_iter().cycle().take(FRAMES).collect();
    let sensor = Sensor::keeping(&lab.sensor);
    let more = format!("--direction ingress -F {}", file.display());
    let Some(agent) = path.start(&lab, &more) else { return };
    Generator::new("eth0").rate(2_000).send_frames(&lab.client, list);
    // The same again: the program is another one.
    agent.signal(libc::SIGHUP);
    agent.wait_for_line("frames meet the filter");
    let report = agent.stop_and_report();
    let (received, _) = sensor.finish();
    assert!(received == vec![wanted; FRAMES / 4], "{} frames", received.len());
    let counts = &report.frames;
    let [all, sent] = [FRAMES, FRAMES / 4].map(|count| count as u64);
    assert_eq!((counts.seen, counts.sent, counts.filtered), (all, sent, all - sent), "{counts:?}");
}

/// Two sensors, at two ports: each flow is whole at one of them, then each frame at both.
fn flows_are_shared_out(path: &Path) {
    const FRAMES: u64 = 1_000;
    let _turn = lock::shared();
    let lab = Lab::new();
    for (arguments, times) in [("", 1), ("--fanout", 2)] {
        let ports = [path.port, path.port + 1];
        let sensors = ports.map(|port| {
            Sensor::start_on(&lab.sensor, port, Vec::new(), |numbers: &mut Vec<u64>, datagram| {
                numbers.extend(frames::index_of(datagram.frame).filter(|number| *number < FRAMES));
            })
        });
        let dest = format!("--dest {SENSOR}:{} {arguments}", ports[1]);
        let Some(agent) = path.start(&lab, &dest) else { return };
        Generator::new("eth0").rate(2_000).send(&lab.client, 0..FRAMES);
        let report = agent.stop_and_report();
        let [one, other] = sensors.map(|sensor| sensor.finish().0);
        assert_eq!(
            (report.frames.sent, report.datagrams_sent),
            (FRAMES, times * FRAMES),
            "{:?}",
            report.frames
        );
        let told: Vec<_> = report.destinations.iter().map(|destination| destination.datagrams).collect();
        assert_eq!(told, [one.len() as u64, other.len() as u64], "{:?}", report.destinations);
        let all: BTreeSet<u64> = one.iter().chain(&other).copied().collect();
        assert_eq!(all.len() as u64, FRAMES, "frames that arrived");
        if times == 1 {
            let flows = |numbers: &[u64]| -> BTreeSet<_> {
                numbers.iter().filter_map(|number| frames::Plan::of(*number).flow()).collect()
            };
            let (one, other) = (flows(&one), flows(&other));
            assert!(one.is_disjoint(&other), "a flow is at both");
            assert!(
                one.len().min(other.len()) * 5 > one.len() + other.len(),
                "{} and {}",
                one.len(),
                other.len()
            );
        }
    }
}

/// In redirect mode with GENEVE, sensors with both kinds of addresses, and an interface with a network of its own: the
/// longest programs that there are.
#[test]
fn verifier_takes_the_longest_programs() {
    const FRAMES: u64 = 200;
    let _turn = lock::shared();
    let lab = Lab::with_ipv6();
    for (fanout, times) in [("", 1), ("--fanout", 2)] {
        let sensors = [geneve::PORT, geneve::OTHER_PORT].map(|port| {
            Sensor::start_on(&lab.sensor, port, Vec::new(), |numbers: &mut Vec<u64>, datagram| {
                let number = frames::index_of(datagram.frame).filter(|number| *number < FRAMES);
                assert!(number.is_none_or(|number| datagram.frame == frames::frame(number)));
                assert_eq!(datagram.vni, 7);
                numbers.extend(number);
            })
        });
        let more = format!("--dest [fd20::2]:{} {fanout}", geneve::OTHER_PORT);
        let line = format!("{RUN} --iface {MIRRORED}=vni:7 --mode redirect --encap geneve {more}");
        let agent = Agent::start(&lab.router, &line);
        Generator::new("eth0").rate(1_000).send(&lab.client, 0..FRAMES);
        let report = agent.stop_and_report();
        let arrived = sensors.map(|sensor| sensor.finish().0);
        assert_eq!(report.frames.sent, report.frames.seen, "{:?}", report.frames);
        assert!(arrived.iter().all(|numbers| !numbers.is_empty()), "{arrived:?}");
        let mut all = arrived.concat();
        all.sort_unstable();
        let expected: Vec<_> = (0..FRAMES).flat_map(|number| (0..times).map(move |_| number)).collect();
        assert_eq!(all, expected, "{fanout}");
    }
}

/// An IPv4 datagram without options to the sensor's port, which no crafted frame is.
fn is_mirror_traffic(frame: &[u8], port: u16) -> bool {
    frame.len() > 42 && frame[12..14] == [0x08, 0] && frame[23] == 17 && frame[36..38] == port.to_be_bytes()
}

/// Sampling leaves out whole connections, and the budget what is too much.
fn what_is_left_out_is_counted(path: &Path) {
    const CONNECTIONS: u64 = 400;
    const EACH: u64 = 5;
    let _turn = lock::shared();
    let lab = Lab::new();
    let sensor = Sensor::start(&lab.sensor, BTreeMap::<_, u64>::new(), |connections, datagram| {
        let segment = Segment::read(datagram.frame).expect("what was sent");
        *connections.entry(segment.connection).or_default() += 1;
    });
    let Some(agent) = path.start(&lab, "--sample 4 --max-rate 100pps") else { return };
    let frames = (0..CONNECTIONS * EACH).map(|number| {
        let connection = (number % CONNECTIONS) as u32;
        Segment { connection, is_answer: number % 2 == 1, flags: connections::ACK, number, len: 100 }.frame()
    });
    Generator::new("eth0").rate(5_000).send_frames(&lab.client, frames.collect());
    let report = agent.stop_and_report();
    let (connections, totals) = sensor.finish();
    let ledger = &report.frames;
    println!("{ledger:?}");
    assert_eq!((ledger.seen, ledger.sent), (CONNECTIONS * EACH, totals.datagrams));
    assert_eq!(ledger.sampled_out + ledger.rate_limited + ledger.sent, ledger.seen);
    assert_eq!(ledger.sampled_out % EACH, 0, "a connection is left out in part");
    assert!((65..=135).contains(&(CONNECTIONS - ledger.sampled_out / EACH)), "{ledger:?}");
    assert!(ledger.sent >= 20 && ledger.rate_limited > 100, "{ledger:?}");
    assert!(connections.len() as u64 * EACH <= ledger.seen - ledger.sampled_out);
}

fn interfaces_of_a_pattern_are_mirrored_as_they_come(path: &Path) {
    const PAIRS: usize = 10;
    const TIME: Duration = Duration::from_secs(20);
    let _turn = lock::shared();
    let lab = Lab::new();
    let arrivals = Arrivals::of(PAIRS);
    let sensor = Sensor::start(&lab.sensor, arrivals.clone(), |arrivals, datagram| {
        arrivals.look(datagram);
    });
    let Some(agent) = path.start(&lab, "--iface veth*") else { return };
    for _ in 0..2 {
        let _ = arrivals.time_creation(&lab.router, 0..PAIRS, TIME);
        let before = arrivals.total();
        swarm::send(&lab.router, 0..PAIRS, 3);
        let deadline = Instant::now() + TIME;
        while arrivals.total() < before + 3 * PAIRS as u64 && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
        swarm::delete_at_once(&lab.router, 0..PAIRS);
        arrivals.forget_first();
    }
    let report = agent.stop_and_report();
    let (arrivals, _) = sensor.finish();
    for pair in 0..PAIRS {
        let frames = arrivals.frames(pair);
        assert!(frames >= 8, "{frames} frames of pair {pair}");
        assert_eq!(report.interface(&format!("veth{pair}")).seen, frames, "of pair {pair}");
    }
}

fn nothing_stays(path: &Path) {
    let _turn = lock::shared();
    let lab = Lab::new();
    let before = Trace::of(&lab);
    let Some(agent) = path.start(&lab, "") else { return };
    assert_ne!(Trace::of(&lab), before, "the agent is not to be seen at all");
    let _ = agent.stop_and_report();
    Trace::assert_gone(&lab, &before);
}

fn next_start_after_kill_9_leaves_nothing(path: &Path) {
    let _turn = lock::shared();
    let lab = Lab::new();
    let before = Trace::of(&lab);
    let Some(agent) = path.start(&lab, "") else { return };
    agent.signal(libc::SIGKILL);
    let _ = agent.wait(Duration::from_secs(10));
    let _ = path.start(&lab, "").expect("possible the first time").stop_and_report();
    Trace::assert_gone(&lab, &before);
}

/// What an agent may leave on a host: programs, filters, queueing disciplines, devices.
#[derive(Debug, PartialEq, Eq)]
struct Trace {
    tcx: Vec<Vec<Attached>>,
    shown: Vec<String>,
}

impl Trace {
    fn of(lab: &Lab) -> Self {
        let router = &lab.router;
        let links = router.ip("-j link show");
        let links: serde_json::Value = serde_json::from_str(&links).unwrap();
        let mut tcx = Vec::new();
        let mut shown: Vec<String> = ["ip -d link show", "tc qdisc show"].map(|line| router.run(line)).into();
        for iface in [MIRRORED, UPLINK] {
            let link = links.as_array().unwrap().iter().find(|link| link["ifname"] == iface).unwrap();
            let index = link["ifindex"].as_u64().unwrap() as u32;
            for (direction, name) in [(Direction::Ingress, "ingress"), (Direction::Egress, "egress")] {
                tcx.push(bpf::attached(router, index, direction));
                shown.push(router.run(&format!("tc filter show dev {iface} {name}")));
            }
        }
        Self { tcx, shown }
    }

    /// Waits: the kernel takes its time to remove what was a killed process's.
    fn assert_gone(lab: &Lab, before: &Self) {
        let deadline = Instant::now() + Duration::from_secs(5);
        while Self::of(lab) != *before && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(Self::of(lab), *before);
    }
}

//! `--encap geneve` with several sensors, and interfaces with networks of their own: each flow whole at one sensor, or at
//! each, and all that is told of its frames.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use mirror_tests::{
    agent::Agent,
    generator::Generator,
    geneve::{self, Told},
    lab::DEFAULT_VNI,
    link::veth,
    lock,
    pool::{self, PoolLab, spread},
    scratch::Scratch,
    sensor::{Sensor, Totals},
    tshark,
};

/// Those from half of them on have a VLAN tag.
const FLOWS: u32 = 400;
/// The network of the interface that questions come by.
const VNI: u32 = 100;

/// Sensors' addresses: of one kind, of the other, of both.
const V4: [&str; 2] = ["10.30.1.2", "10.30.2.2"];
const V6: [&str; 2] = ["fd30:1::2", "fd30:2::2"];
const MIXED: [&str; 2] = ["10.30.1.2", "fd30:2::2"];

/// Sends by AF_XDP where the kernel program that sends does not suit, and tells so.
const AF_XDP: &str = "--transmit packet -v";

/// What came to one sensor, by flow and by whether it is a reply: how often, in which network, and what was told.
type Got = BTreeMap<(u32, bool), (u32, u32, Told)>;

/// Two sensors, and `eth2` as a second interface to mirror, on the client `eth1`.
struct Bench {
    lab: PoolLab,
    /// Numbers of `eth0` and `eth2`.
    indexes: [u32; 2],
}

impl Bench {
    fn new() -> Self {
        let lab = PoolLab::with_ipv6(2);
        veth(&lab.router, "eth2", &lab.client, "eth1");
        for uplink in ["up1", "up2"] {
            // A veth pair would hand on checksums that are left to a card, and nobody would look at them.
            lab.router.run(&format!("ethtool -K {uplink} tx off"));
        }
        let index = |name: &str| {
            let line = lab.router.ip(&format!("-o link show dev {name}"));
            line.split(':').next().unwrap().trim().parse().unwrap()
        };
        Self { indexes: ["eth0", "eth2"].map(index), lab }
    }

    fn listen(&self) -> Vec<Sensor<Got>> {
        let listen = |host| {
            Sensor::start_on(host, geneve::PORT, Got::new(), |got: &mut Got, datagram| {
                let Some((flow, 0, reply)) = pool::read(datagram.frame) else { return };
                assert_eq!(datagram.frame, frame(flow, reply), "flow {flow}");
                let told = datagram.told.expect("nothing is told");
                let entry = got.entry((flow, reply)).or_insert((0, datagram.vni, told));
                entry.0 += 1;
            })
        };
        self.lab.sensors.iter().map(listen).collect()
    }

    /// Questions come by one interface, answers by the other. Gives the sensor of each flow, from 1 on, where it is not
    /// each of them.
    fn run(&self, way: &str, dests: [&str; 2], is_fanout: bool) -> Vec<usize> {
        let fanout = if is_fanout { "--fanout" } else { "" };
        let what = format!("{way} to {dests:?} {fanout}");
        let sensors = self.listen();
        let line = format!(
            "-i eth0=vni:{VNI} -i eth2 --direction ingress --encap geneve -d {} -d {} {fanout} --report json {way}",
            dests[0], dests[1]
        );
        let agent = Agent::start(&self.lab.router, &line);
        let started = now();
        for (iface, reply) in [("eth0", false), ("eth1", true)] {
            let list = (0..FLOWS).map(|flow| frame(flow, reply)).collect();
            Generator::new(iface).rate(5_000).send_frames(&self.lab.client, list);
        }
        let ended = now();
        let outcome = agent.stop();
        if way == AF_XDP {
            for dest in dests {
                let is_told = |line: &str| line.contains(dest) && line.contains("by AF_XDP");
                assert!(outcome.stderr.lines().any(is_told), "{what}: {outcome}");
            }
        }
        let report = outcome.report();
        let (got, totals): (Vec<Got>, Vec<Totals>) = sensors.into_iter().map(Sensor::finish).unzip();

        assert_eq!(
            (&*report.encap, report.frames.sent),
            ("geneve", report.frames.seen),
            "{what}: {report:?}"
        );
        for (totals, told) in totals.iter().zip(&report.destinations) {
            assert_eq!(totals.malformed, 0, "{what}");
            assert_eq!((totals.datagrams, totals.bytes), (told.datagrams, told.bytes), "{what}");
        }
        let sum = |of: fn(&Totals) -> u64| totals.iter().map(of).sum::<u64>();
        assert_eq!(
            (sum(|totals| totals.datagrams), sum(|totals| totals.bytes)),
            (report.datagrams_sent, report.bytes_sent),
            "{what}"
        );
        for (&(flow, reply), &(count, vni, told)) in got.iter().flatten() {
            let what = format!("{what}: flow {flow}, reply {reply}");
            assert_eq!(count, 1, "{what}");
            assert_eq!(vni, if reply { DEFAULT_VNI } else { VNI }, "{what}");
            let interface = self.indexes[usize::from(reply)];
            let wire_len = frame(flow, reply).len() as u32;
            assert_eq!(told, Told { wire_len, direction: 0, interface, ..told }, "{what}");
            assert!((started..ended).contains(&told.time), "{what}: {told:?}, {started} to {ended}");
        }
        let all = 2 * FLOWS as usize;
        if is_fanout {
            assert_eq!([got[0].len(), got[1].len()], [all, all], "{what}");
            let time = |of: &Got| of.values().map(|(_, _, told)| told.time).collect::<Vec<_>>();
            let apart = time(&got[0]).into_iter().zip(time(&got[1])).map(|(one, other)| one.abs_diff(other));
            let apart = apart.max().unwrap();
            let allowed = if way.contains("redirect") { 0 } else { 1_000_000 };
            assert!(apart <= allowed, "{what}: sensors are told times {apart} ns apart");
            return Vec::new();
        }
        assert_eq!(got[0].len() + got[1].len(), all, "{what}");
        let owner = |flow| {
            let owners: Vec<usize> = (0..2)
                .filter(|sensor| [false, true].iter().all(|&reply| got[*sensor].contains_key(&(flow, reply))))
                .collect();
            let [owner] = owners[..] else { panic!("{what}: flow {flow} is not whole at one: {owners:?}") };
            owner + 1
        };
        (0..FLOWS).map(owner).collect()
    }
}

/// A question or an answer, with a tag where the flow has one.
fn frame(flow: u32, reply: bool) -> Vec<u8> {
    let mut frame = pool::frame(flow, 0, reply);
    if flow >= FLOWS / 2 {
        frame.splice(12..12, [0x81, 0, 0x20, 7]);
    }
    frame
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64
}

/// To sensors of every kind of address; the names have the shares, so that they are the same for the same names.
#[test]
fn each_flow_is_whole_at_one() {
    let _turn = lock::shared();
    let bench = Bench::new();
    for dests in [V4, V6, MIXED] {
        let mut before = Vec::new();
        for way in ["--transmit packet", "--mode redirect"] {
            let owners = bench.run(way, dests, false);
            let counts = spread(&owners, 2);
            println!("{way} to {dests:?}: {counts:?}");
            assert!(counts.iter().all(|count| *count > FLOWS as usize / 3), "{counts:?}");
            assert!(before.is_empty() || before == owners, "{way} to {dests:?}: another choice");
            before = owners;
        }
    }
    for way in ["--transmit udp", "", "--hook xdp"] {
        let owners = bench.run(way, MIXED, false);
        println!("{way:?} to {MIXED:?}: {:?}", spread(&owners, 2));
    }
}

#[test]
fn each_frame_is_at_each() {
    let _turn = lock::shared();
    let bench = Bench::new();
    for way in ["--transmit udp", "--transmit packet", "--mode redirect", "--hook xdp"] {
        let _ = bench.run(way, MIXED, true);
    }
    let _ = bench.run("--mode redirect", V4, true);
    let _ = bench.run("--mode redirect", V6, true);
}

/// By AF_XDP, which is next where the uplinks take more than the program that sends, and other devices have first.
#[test]
fn af_xdp_sends_to_each() {
    let _turn = lock::shared();
    let bench = Bench::new();
    for (host, uplink) in bench.lab.sensors.iter().zip(["up1", "up2"]) {
        host.mtu("eth0", 2_030);
        bench.lab.router.mtu(uplink, 2_030);
    }
    let owners = bench.run(AF_XDP, MIXED, false);
    println!("{AF_XDP} to {MIXED:?}: {:?}", spread(&owners, 2));
    let _ = bench.run(AF_XDP, MIXED, true);
}

/// A frame that does not fit is fragmented by the kernel's stack, where it does that, for the sensor that cannot take it
/// whole; a GENEVE header is in the first fragment.
#[test]
fn a_frame_is_as_long_as_each_path_takes() {
    let _turn = lock::shared();
    let lab = PoolLab::new(2);
    lab.router.mtu("up2", 140);
    let short = pool::frame(1, 0, false);
    let mut long = pool::frame(2, 0, false);
    long.splice(42..42, [0x55; 40]);
    (long[17], long[39]) = (long[17] + 40, long[39] + 40);
    for way in ["--transmit packet", "--mode redirect"] {
        for (oversize, expected) in [("drop", [1, 1, 0]), ("truncate", [2, 0, 1]), ("fragment", [2, 0, 0])] {
            let sensors: Vec<_> = lab
                .sensors
                .iter()
                .map(|host| {
                    Sensor::start_on(host, geneve::PORT, Vec::new(), |all: &mut Vec<_>, datagram| {
                        all.push((datagram.frame.to_vec(), datagram.told.unwrap().wire_len as usize));
                    })
                })
                .collect();
            let line = format!(
                "--iface eth0 --direction ingress {} --encap geneve --fanout {way} --oversize {oversize} \
                 --report json",
                lab.dests()
            );
            let agent = Agent::start(&lab.router, &line);
            Generator::new("eth0").send_frames(&lab.client, vec![short.clone(), long.clone()]);
            std::thread::sleep(Duration::from_millis(50));
            let report = agent.stop_and_report();
            let counts = [report.frames.sent, report.frames.too_big, report.truncated];
            assert_eq!(counts, expected, "{line}: {:?}", report.frames);
            let [one, other] = <[_; 2]>::try_from(sensors).ok().unwrap().map(|sensor| sensor.finish().0);
            let whole = |frame: &Vec<u8>| (frame.clone(), frame.len());
            assert_eq!(one, [whole(&short), whole(&long)], "{line}");
            // IPv4, UDP, GENEVE.
            let fits = 140 - 20 - 8 - geneve::HEADERS_LEN;
            assert!(short.len() <= fits && long.len() > fits);
            let expected = match oversize {
                "drop" => vec![whole(&short)],
                "truncate" => vec![whole(&short), (long[..fits].to_vec(), long.len())],
                _ => vec![whole(&short), whole(&long)],
            };
            assert_eq!(other, expected, "{line}");
        }
    }
}

/// The same choice is in the datagrams that are written.
#[test]
fn written_datagrams_are_geneve() {
    let _turn = lock::shared();
    let (bench, scratch) = (Bench::new(), Scratch::new());
    let owners = bench.run("", V4, false);
    let path = scratch.path("written.pcapng");
    let line = format!(
        "-i eth0=vni:{VNI} --direction ingress --encap geneve -d {} -d {} -w {} --write-outer --report json",
        V4[0],
        V4[1],
        path.display()
    );
    let agent = Agent::start(&bench.lab.router, &line);
    let list = (0..FLOWS).map(|flow| frame(flow, false)).collect();
    Generator::new("eth0").rate(5_000).send_frames(&bench.lab.client, list);
    std::thread::sleep(Duration::from_millis(100));
    let report = agent.stop_and_report();
    let rows = tshark::fields(&path, "geneve", &["ip.dst", "udp.dstport", "geneve.vni", "udp.payload"], &[]);
    let mut each = [0; 2];
    let mut flows = 0;
    for row in rows {
        // The outer address comes first.
        let dest = row[0].split(',').next().unwrap();
        let number = 1 + V4.iter().position(|address| *address == dest).unwrap();
        each[number - 1] += 1;
        let data = row[3].rsplit(',').next().unwrap();
        let Some(flow) = data.get(18..26).and_then(|hex| u32::from_str_radix(hex, 16).ok()) else { continue };
        assert!(row[1].starts_with("6081") && row[2].starts_with("0x000064"), "{row:?}");
        assert_eq!(owners[flow as usize], number, "flow {flow}: {row:?}");
        flows += 1;
    }
    assert_eq!(flows, FLOWS);
    let told: Vec<_> = report.destinations.iter().map(|destination| destination.datagrams).collect();
    assert_eq!(told, each);
}

//! `--sample`: whole connections, the same ones wherever the seed is the same.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::collections::{BTreeMap, BTreeSet};

use mirror_tests::{
    agent::Agent,
    captures::Pcap,
    connections::{self, ACK, Segment},
    generator::Generator,
    lab::{Lab, MIRRORED, RUN},
    lock, replay,
    report::Report,
    scratch::Scratch,
    sensor::{Datagram, Sensor},
};

const CONNECTIONS: u32 = 10_000;
/// Segments of each connection, each way.
const EACH: u64 = 2;
/// Datagrams in two fragments.
const DATAGRAMS: u32 = 800;
const FRAMES: u64 = (CONNECTIONS as u64) * EACH * 2 + (DATAGRAMS as u64) * 2;
const RATE: u64 = 100_000;

/// What came of each connection, to the server and from it, and of each datagram in fragments.
#[derive(Debug, Default)]
struct Seen {
    connections: BTreeMap<u32, [u64; 2]>,
    datagrams: BTreeMap<u32, u64>,
}

impl Seen {
    fn look(&mut self, datagram: Datagram<'_>) {
        if let Some(segment) = Segment::read(datagram.frame) {
            self.connections.entry(segment.connection).or_default()[usize::from(segment.is_answer)] += 1;
        } else {
            *self.datagrams.entry(connections::fragment(datagram.frame).unwrap()).or_default() += 1;
        }
    }

    /// The connections and datagrams, of which each has to be whole.
    fn chosen(self) -> [BTreeSet<u32>; 2] {
        let parts: Vec<_> = self.connections.iter().filter(|(_, count)| **count != [EACH; 2]).collect();
        assert!(parts.is_empty(), "{} connections are not whole, such as {:?}", parts.len(), parts[0]);
        assert!(self.datagrams.values().all(|count| *count == 2), "a datagram is not whole");
        [self.connections.into_keys().collect(), self.datagrams.into_keys().collect()]
    }
}

/// All frames one way, of every connection.
fn frames(is_answer: bool) -> Vec<Vec<u8>> {
    let of = |round| {
        (0..CONNECTIONS).map(move |connection| {
            Segment { connection, is_answer, flags: ACK, number: round, len: 0 }.frame()
        })
    };
    let mut all: Vec<_> = (0..EACH).flat_map(of).collect();
    if !is_answer {
        for connection in 0..DATAGRAMS {
            let [first, second] = connections::fragments(connection);
            // Of every other one the later fragment comes first.
            all.extend(if connection % 2 == 0 { [first, second] } else { [second, first] });
        }
    }
    all
}

fn check(report: &Report, n: u64, [chosen, datagrams]: &[BTreeSet<u32>; 2]) {
    let ledger = &report.frames;
    let sent = chosen.len() as u64 * EACH * 2 + datagrams.len() as u64 * 2;
    assert_eq!((ledger.seen, ledger.sent), (FRAMES, sent), "{ledger:?}");
    assert_eq!(ledger.sampled_out, FRAMES - sent, "{ledger:?}");
    for (what, got, all) in
        [("connections", chosen.len(), CONNECTIONS), ("datagrams", datagrams.len(), DATAGRAMS)]
    {
        let expected = f64::from(all) / n as f64;
        let bound = 4.0 * (expected * (1.0 - 1.0 / n as f64)).sqrt();
        assert!((got as f64 - expected).abs() < bound, "{got} of {expected} {what}");
        println!("{got} of {all} {what}, {expected:.0} expected");
    }
}

/// Runs the agent on an interface. With one hook, what the other one would see comes in too.
fn live(arguments: &str, n: u64, sees_egress: bool) -> [BTreeSet<u32>; 2] {
    let lab = Lab::new();
    let sensor = Sensor::start(&lab.sensor, Seen::default(), Seen::look);
    let agent = Agent::start(&lab.router, &format!("{RUN} --sample {n} {arguments}"));
    Generator::new("eth0").rate(RATE).send_frames(&lab.client, frames(false));
    if sees_egress {
        Generator::new(MIRRORED).rate(RATE).through_hooks().send_frames(&lab.router, frames(true));
    } else {
        Generator::new("eth0").rate(RATE).send_frames(&lab.client, frames(true));
    }
    let report = agent.stop_and_report();
    let (seen, totals) = sensor.finish();
    assert_eq!(totals.datagrams, report.frames.sent, "{arguments}");
    let chosen = seen.chosen();
    check(&report, n, &chosen);
    chosen
}

fn replayed(n: u64) -> [BTreeSet<u32>; 2] {
    let (lab, scratch) = (Lab::new(), Scratch::new());
    let file = scratch.path("connections.pcap");
    let mut capture = Pcap::ethernet();
    for (time, frame) in (0..).zip(frames(false).iter().chain(&frames(true))) {
        capture.packet(1_000_000_000_000_000_000 + time * 1_000, frame);
    }
    capture.save(&file);
    let sensor = Sensor::start(&lab.sensor, Seen::default(), Seen::look);
    let report = replay::play(&lab, &[&file], &format!("--pps 100000 --sample {n}")).report();
    let (seen, totals) = sensor.finish();
    assert_eq!(totals.datagrams, report.frames.sent);
    let chosen = seen.chosen();
    check(&report, n, &chosen);
    chosen
}

#[test]
fn one_connection_in_eight_is_whole_and_everywhere_the_same() {
    let _turn = lock::shared();
    let chosen = live("", 8, true);
    for (path, sees_egress) in [
        ("--mode redirect", true),
        ("--hook xdp --xdp-attach native", false),
        ("--hook xdp --xdp-attach generic --sample-seed 0", false),
    ] {
        assert!(live(path, 8, sees_egress) == chosen, "{path} chooses others");
    }
    assert!(replayed(8) == chosen, "a replay chooses others");
    // Of two choices of an eighth a 64th is in both: 156, give or take 12.
    let [others, _] = live("--sample-seed 0xfeedbeef", 8, true);
    let both = others.intersection(&chosen[0]).count();
    assert!((110..205).contains(&both), "{both} connections are chosen by both seeds");
}

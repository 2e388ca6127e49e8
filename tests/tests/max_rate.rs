//! `--max-rate`: the rate is kept and used, connections are left out whole before all of them are thinned, and a sensor
//! sees that the others existed.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use mirror_tests::{
    agent::Agent,
    bench::precedence::Precedence,
    captures::Pcap,
    connections::{ACK, FIN, SHORTEST, SYN, Segment},
    generator::{Generator, Running},
    lab::{Lab, MIRRORED, RUN},
    lock, replay,
    scratch::Scratch,
    sensor::{Datagram, Sensor},
};

const CONNECTIONS: u64 = 4_000;
/// Every so many segments a connection ends, and begins anew.
const LIFE: u64 = 64;
const LEN: usize = 1_000;
/// Frames a second: 2 Gbit/s.
const LOAD: u64 = 265_000;
const SECOND: u64 = 1_000_000_000;

/// The `number`-th segment of all connections, which take turns.
fn segment(number: u64) -> Segment {
    let (connection, round) = (number % CONNECTIONS, number / CONNECTIONS);
    // They do not begin all at once.
    let (flags, len) = match (round + connection) % LIFE {
        0 => (SYN, SHORTEST),
        63 => (FIN | ACK, SHORTEST),
        _ => (ACK, LEN),
    };
    Segment { connection: connection as u32, is_answer: round % 2 == 1, flags, number, len }
}

/// What arrived: when, the number, and the length.
type Arrived = Vec<(u64, u64, usize)>;

fn look(arrived: &mut Arrived, datagram: Datagram<'_>) {
    let segment = Segment::read(datagram.frame).unwrap();
    arrived.push((datagram.time, segment.number, segment.len));
}

/// The same of each second of the middle, from half a second on: when it began, and what arrived.
fn middle(arrived: &Arrived, seconds: u64) -> Vec<(u64, Arrived)> {
    let first = arrived[0].0 + SECOND / 2;
    (0..seconds)
        .map(|second| {
            let begin = first + second * SECOND;
            let range = begin..begin + SECOND;
            (begin, arrived.iter().filter(|(time, ..)| range.contains(time)).copied().collect())
        })
        .collect()
}

/// Times in which the generator was not given its processor: when one ended, and how long it was, in nanoseconds.
type Stalls = Vec<(u64, u64)>;

/// Longer than the bucket lasts that is filled meanwhile.
const STALL: u64 = 3_000_000;

/// Checks a second's `got`: no more than the rate, and no more than 3 % less, for as long as there was a load.
fn assert_kept(got: f64, rate: f64, stalls: &[(u64, u64)], begin: u64, what: &str) {
    let range = begin..begin + SECOND;
    let stalled =
        stalls.iter().filter(|(end, _)| range.contains(end)).map(|(_, time)| *time as f64 / 1e9).sum::<f64>();
    println!(
        "{what}: {got:.0} of {rate:.0}, {:+.2} %, {:.0} ms without load",
        (got / rate - 1.0) * 100.0,
        stalled * 1e3
    );
    assert!(stalled < 0.5, "this machine makes no steady load");
    assert!(got <= rate, "{what}: {got} of {rate}");
    assert!(got >= rate * (1.0 - stalled) * 0.97, "{what}: {got} of {rate}, but for {stalled} s");
}

fn joined(seconds: Vec<(u64, Arrived)>) -> Arrived {
    seconds.into_iter().flat_map(|(_, arrived)| arrived).collect()
}

fn bytes(arrived: &Arrived) -> f64 {
    arrived.iter().map(|(.., len)| *len as f64).sum()
}

/// How many connections were taken whole, not at all (but for beginnings and ends), and in part, and what share of the
/// beginnings and ends arrived of those that were not taken.
fn outcome(arrived: &Arrived) -> (usize, usize, usize, f64) {
    let mut counts = vec![[[0_u64; 2]; 2]; CONNECTIONS as usize];
    let mut count = |side: usize, number| {
        let segment = segment(number);
        counts[segment.connection as usize][usize::from(segment.flags != ACK)][side] += 1;
    };
    // Each generator's by themselves: one may be ahead of the other.
    for of in [0, 1] {
        let numbers = || arrived.iter().map(|(_, number, _)| *number).filter(|number| number % 2 == of);
        (numbers().min().unwrap()..=numbers().max().unwrap()).step_by(2).for_each(|number| count(0, number));
        numbers().for_each(|number| count(1, number));
    }
    let whole = counts.iter().filter(|[others, ends]| others[0] == others[1] && ends[0] == ends[1]).count();
    let refused: Vec<_> = counts.iter().filter(|[others, _]| others[1] == 0).collect();
    let ends = |side: usize| refused.iter().map(|[_, ends]| ends[side]).sum::<u64>() as f64;
    (whole, refused.len(), counts.len() - whole - refused.len(), ends(1) / ends(0))
}

/// Longer than the bucket: connections that are to be whole are thinned when the generator makes up for it.
const STALL_MAX: u64 = 8_000_000;

/// Has two gigabits a second mirrored for some seconds, again where other programs kept the generator from doing so.
fn under_load(arguments: &str, seconds: u64, both_ways: bool) -> (Arrived, Stalls) {
    for _ in 0..4 {
        let (arrived, stalls) = try_under_load(arguments, seconds, both_ways);
        let worst = stalls.iter().map(|(_, time)| *time).max().unwrap_or(0);
        if worst <= STALL_MAX {
            return (arrived, stalls);
        }
        println!("once more: the generator had no processor for {} ms", worst / 1_000_000);
    }
    panic!("this machine is too busy for a steady load");
}

fn try_under_load(arguments: &str, seconds: u64, both_ways: bool) -> (Arrived, Stalls) {
    let lab = Lab::new();
    let sensor = Sensor::start(&lab.sensor, Vec::new(), look);
    let agent = Agent::start(&lab.router, &format!("{RUN} {arguments}"));
    let stalls = Arc::<Mutex<Stalls>>::default();
    // What comes in, and what goes out, on a processor of its own.
    let generators = [
        (Generator::new("eth0"), &lab.client),
        (Generator::new(MIRRORED).on_processor(1).through_hooks(), &lab.router),
    ];
    let ways = if both_ways { 2 } else { 1 };
    let running = (0..ways).zip(generators).map(|(of, (generator, host))| {
        let (noted, last) = (stalls.clone(), AtomicU64::new(0));
        generator.rate(LOAD / ways).run(host, move |sent, buffer| {
            segment(sent * ways + of).write(buffer);
            if sent.is_multiple_of(16) {
                let now = replay::now();
                let before = last.swap(now, Ordering::Relaxed);
                if before > 0 && now - before > STALL {
                    noted.lock().unwrap().push((now, now - before));
                }
            }
            true
        })
    });
    let running: Vec<_> = running.collect();
    thread::sleep(Duration::from_millis(600 + seconds * 1_000));
    let sent: Vec<_> = running.into_iter().map(Running::stop).collect();
    let report = agent.stop_and_report();
    let (arrived, totals) = sensor.finish();
    let offered: f64 = sent.iter().map(|sent| sent.bytes as f64 * 8e-9 / sent.time.as_secs_f64()).sum();
    let frames: u64 = sent.iter().map(|sent| sent.frames).sum();
    println!("{arguments}: {offered:.2} Gbit/s offered, {:?}", report.frames);
    assert!(offered > 1.0, "this machine makes {offered} Gbit/s only");
    let ledger = &report.frames;
    assert_eq!((ledger.seen, totals.datagrams), (frames, ledger.sent), "{ledger:?}");
    assert_eq!(ledger.rate_limited + ledger.sent, ledger.seen, "{ledger:?}");
    let stalls = std::mem::take(&mut *stalls.lock().unwrap());
    (arrived, stalls)
}

#[test]
fn the_rate_is_used_and_connections_are_whole() {
    let _turn = lock::alone();
    let _precedence = Precedence::take();
    // In redirect mode on two processors at the same time.
    for (path, both_ways) in [("", false), ("--mode redirect", true)] {
        let (arrived, stalls) = under_load(&format!("--max-rate 100mbit {path}"), 2, both_ways);
        let middle = middle(&arrived, 2);
        for (begin, second) in &middle {
            assert_kept(bytes(second), 12_500_000.0, &stalls, *begin, "bytes a second");
        }
        let (whole, refused, partly, ends) = outcome(&joined(middle));
        println!("{whole} whole, {refused} refused, {partly} in part; {:.1} % of ends", ends * 100.0);
        // A twentieth of 4,000, of which nine tenths are whole.
        assert!((130..=200).contains(&whole), "{whole}");
        assert!(refused > 3_600 && partly < 120, "{refused} refused, {partly} in part");
        assert!(ends > 0.95, "{ends} of the beginnings and ends of refused connections arrived");
    }
}

#[test]
fn frames_are_counted_too_and_nothing_passes_of_refused_connections_when_that_is_strict() {
    let _turn = lock::alone();
    let _precedence = Precedence::take();
    let (arrived, stalls) = under_load("--hook xdp --max-rate 20kpps --max-rate-strict", 2, false);
    let middle = middle(&arrived, 2);
    for (begin, second) in &middle {
        assert_kept(second.len() as f64, 20_000.0, &stalls, *begin, "frames a second");
    }
    let (whole, refused, partly, ends) = outcome(&joined(middle));
    println!("{whole} whole, {refused} refused, {partly} in part; {:.1} % of ends", ends * 100.0);
    assert!((200..=300).contains(&whole) && refused > 3_500 && partly < 160, "{whole} {refused} {partly}");
    // Of one that is taken in part it may be a beginning that passes, and nothing else.
    assert!(ends < 0.002, "{ends} of the beginnings and ends of refused connections arrived");
}

/// A capture of `seconds` at 80 Mbit/s.
fn capture(scratch: &Scratch, seconds: u64) -> std::path::PathBuf {
    let file = scratch.path("load.pcap");
    let mut capture = Pcap::ethernet();
    for number in 0..10_000 * seconds {
        capture.packet(SECOND * 1_000 + number * 100_000, &segment(number).frame());
    }
    capture.save(&file);
    file
}

#[test]
fn replay_at_top_speed_keeps_the_rate_in_real_time() {
    let _turn = lock::alone();
    let _precedence = Precedence::take();
    let (lab, scratch) = (Lab::new(), Scratch::new());
    let file = capture(&scratch, 2);
    let sensor = Sensor::start(&lab.sensor, Vec::new(), look);
    let more = "--topspeed --loop 0 --duration 3600ms --max-rate 100mbit";
    let report = replay::play(&lab, &[&file], more).report();
    let (arrived, totals) = sensor.finish();
    let ledger = &report.frames;
    println!("{ledger:?}");
    assert_eq!(
        (totals.datagrams, ledger.sent),
        (ledger.sent, ledger.seen - ledger.rate_limited),
        "{ledger:?}"
    );
    assert!(ledger.seen > 5 * ledger.sent, "{ledger:?}");
    // On a busy machine there is a second now and then in which the agent's threads have to wait.
    let mut seconds: Vec<_> = middle(&arrived, 3).iter().map(|(_, second)| bytes(second)).collect();
    seconds.sort_by(f64::total_cmp);
    assert_kept(seconds[1], 12_500_000.0, &[], 0, "bytes in the middle one of three seconds");
    assert!(seconds[2] <= 12_500_000.0, "{seconds:?}");
}

/// What is written at top speed has the captures' time, and is the same each time.
#[test]
fn a_capture_is_thinned_by_its_own_time() {
    let _turn = lock::shared();
    let (lab, scratch) = (Lab::new(), Scratch::new());
    let file = capture(&scratch, 3);
    let packets = ["one", "two"].map(|name| {
        let to = scratch.path(&format!("{name}.pcapng"));
        let (report, packets) = replay::convert(&lab, &file, &to, "--max-rate 8mbit");
        assert_eq!(report.frames.rate_limited, report.frames.seen - packets.len() as u64);
        packets.into_iter().map(|packet| (packet.time, packet.bytes)).collect::<Vec<_>>()
    });
    assert!(packets[0] == packets[1], "the same capture is thinned in another way");
    for second in 1..3_u64 {
        let range = (1_000 + second) * SECOND..(1_001 + second) * SECOND;
        let passed: usize =
            packets[0].iter().filter(|(time, _)| range.contains(time)).map(|(_, bytes)| bytes.len()).sum();
        assert_kept(passed as f64, 1_000_000.0, &[], 0, "bytes a second");
    }
}

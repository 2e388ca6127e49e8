//! All measurements, in alternation.

use std::{
    fs,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use super::{
    flat_out, interrupt,
    latency::{self, Ends},
    options::Options,
    place::Place,
    precedence::Precedence,
    results::{AnswersRound, Machine, Results, Round, Settings, Skipped, StreamRound},
    search, summary,
    summary::Rounds,
    systems::{self, System},
    tcp,
    traffic::Traffic,
};
use crate::lock::{self, Turn};

/// Longest wait for the load tests of others.
const PATIENCE: Duration = Duration::from_secs(20 * 60);
/// How much longer iperf3 runs than the generator: a connection has to find its speed.
const TCP_PHASES: f64 = 3.0;

/// Measures everything that the options ask for.
///
/// # Panics
/// Where this is not root, or something fails that has to be there.
#[must_use]
pub fn run(options: &Options) -> Results {
    let machine = machine();
    assert!(machine.processors > 1, "the generator and the mirror need a processor each: here is only one");
    let settings =
        Settings { rounds: options.rounds(), phase_s: options.phase().as_secs_f64(), steps: options.steps() };
    let _precedence = Precedence::take();
    let place = Place::new();
    let mut skipped = Vec::new();
    let mut keep = |name, missing: Option<String>| match missing {
        Some(reason) => {
            eprintln!("skipped: {name}: {reason}");
            skipped.push(Skipped { name, reason });
            false
        }
        None => true,
    };
    let mut systems = options.systems();
    systems.retain(|system| keep(system.name, system.missing(&place)));
    let mut traffic = options.traffic();
    traffic.retain(|traffic| *traffic != Traffic::Tcp || keep("tcp", systems::missing("iperf3", "iperf3")));

    let mut frames = Rounds::new();
    let mut streams = Rounds::new();
    let mut answers = Rounds::new();
    for &traffic in &traffic {
        for &system in &systems {
            match traffic {
                Traffic::Tcp => streams.push((system, Vec::new())),
                Traffic::Latency => {}
                _ => frames.push(((traffic, system), Vec::new())),
            }
        }
    }
    if traffic.contains(&Traffic::Latency) {
        for ends in Ends::ALL {
            answers.extend(systems.iter().map(|&system| ((ends, system), Vec::new())));
        }
    }
    for round in 0..settings.rounds {
        // Not always the same one right after another.
        let turn = round % systems.len();
        let order: Vec<&'static System> = systems[turn..].iter().chain(&systems[..turn]).copied().collect();
        for &traffic in &traffic {
            // The tests that load the machine get their turns in between.
            let _alone = alone();
            eprintln!("round {} of {}: {}", round + 1, settings.rounds, traffic.name());
            match traffic {
                Traffic::Tcp => file(&mut streams, stream_round(&place, options, &order)),
                Traffic::Latency => {
                    for ends in Ends::ALL {
                        let measured = answers_round(&place, ends, &order);
                        file(
                            &mut answers,
                            measured.into_iter().map(|(system, round)| ((ends, system), round)),
                        );
                    }
                }
                _ => {
                    let measured = frame_round(&place, options, traffic, &order);
                    file(&mut frames, measured.into_iter().map(|(system, round)| ((traffic, system), round)));
                }
            }
        }
    }
    let (frames, tcp) = (summary::frames(frames), summary::streams(streams));
    Results { schema: 1, machine, settings, skipped, frames, tcp, latency: summary::answers(answers) }
}

/// Waits until nothing else loads the machine, as long as it takes other tests to do their work.
fn alone() -> Turn {
    let (sender, turn) = mpsc::channel();
    thread::spawn(move || sender.send(lock::alone()));
    let deadline = Instant::now() + PATIENCE;
    let mut is_told = false;
    loop {
        interrupt::check();
        match turn.recv_timeout(Duration::from_millis(50)) {
            Ok(turn) => return turn,
            Err(_) if Instant::now() > deadline => panic!("load tests of others do not end"),
            Err(_) if !is_told => eprintln!("waiting for the load tests of others"),
            Err(_) => {}
        }
        is_told = true;
    }
}

/// Puts each measurement with those of the same kind.
fn file<K: PartialEq, V>(rounds: &mut Rounds<K, V>, measured: impl IntoIterator<Item = (K, V)>) {
    for (key, value) in measured {
        if let Some((_, values)) = rounds.iter_mut().find(|(other, _)| *other == key) {
            values.push(value);
        }
    }
}

/// Every system once, with one traffic.
fn frame_round(
    place: &Place,
    options: &Options,
    traffic: Traffic,
    order: &[&'static System],
) -> Vec<(&'static System, Round)> {
    let mut round: Vec<_> = order
        .iter()
        .map(|&system| {
            let flat_out = flat_out::measure(place, system, traffic, options.phase());
            if system.is_nothing() {
                return (system, Round { offered: flat_out.offered, ..Round::default() });
            }
            let loss_free =
                search::measure(place, system, traffic, &flat_out, options.phase(), options.steps());
            let share = |count: u64| count as f64 / flat_out.frames as f64;
            let lost_by = flat_out.lost_by.iter().map(|(name, count)| (name.clone(), share(*count)));
            let round = Round {
                offered: flat_out.offered,
                delivered: Some(flat_out.delivered),
                bits: Some(flat_out.bits),
                lost: Some(share(flat_out.lost)),
                lost_by: lost_by.collect(),
                loss_free,
                cost_us: None,
            };
            (system, round)
        })
        .collect();
    let alone = round.iter().find(|(system, _)| system.is_nothing()).map(|(_, round)| round.offered);
    for (system, round) in &mut round {
        let time = |rate: f64| 1e6 / rate;
        if !system.is_nothing() {
            round.cost_us = alone.map(|alone| time(round.offered) - time(alone));
        }
        eprintln!(
            "  {:<13} offered {:>6.3} M/s, delivered {:>6.3}, loss-free {:>6.3}",
            system.name,
            round.offered / 1e6,
            round.delivered.unwrap_or_default() / 1e6,
            round.loss_free.unwrap_or_default() / 1e6
        );
    }
    round
}

/// Every system once, with iperf3.
fn stream_round(
    place: &Place,
    options: &Options,
    order: &[&'static System],
) -> Vec<(&'static System, StreamRound)> {
    let seconds = (options.phase().as_secs_f64() * TCP_PHASES).ceil() as u64;
    let measured: Vec<_> =
        order.iter().map(|&system| (system, tcp::measure(place, system, seconds))).collect();
    let alone = measured.iter().find(|(system, _)| system.is_nothing()).map(|(_, tcp)| tcp.bits);
    measured
        .into_iter()
        .map(|(system, tcp)| {
            eprintln!("  {:<13} {:>6.2} Gbit/s", system.name, tcp.bits / 1e9);
            let round = StreamRound {
                bits: tcp.bits,
                kept: alone.filter(|_| !system.is_nothing()).map(|alone| tcp.bits / alone),
                retransmits: tcp.retransmits as f64,
                arrived: tcp.arrived,
                lost_by: tcp.lost_by,
            };
            (system, round)
        })
        .collect()
}

/// Every system once, with requests and answers.
fn answers_round(
    place: &Place,
    ends: Ends,
    order: &[&'static System],
) -> Vec<(&'static System, AnswersRound)> {
    let measured: Vec<_> =
        order.iter().map(|&system| (system, latency::measure(place, system, ends))).collect();
    let alone = measured.iter().find(|(system, _)| system.is_nothing()).map(|(_, latency)| *latency);
    measured
        .into_iter()
        .map(|(system, latency)| {
            eprintln!(
                "  {:<13} {}: {:>6.2} us, 99 % in {:>6.2}",
                system.name,
                ends.name(),
                latency.p50_us,
                latency.p99_us
            );
            let alone = alone.filter(|_| !system.is_nothing());
            let round = AnswersRound {
                p50_us: latency.p50_us,
                p99_us: latency.p99_us,
                added_p50_us: alone.map(|alone| latency.p50_us - alone.p50_us),
                added_p99_us: alone.map(|alone| latency.p99_us - alone.p99_us),
                arrived: latency.arrived,
            };
            (system, round)
        })
        .collect()
}

fn machine() -> Machine {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let load = read("/proc/loadavg");
    Machine {
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        processor: model.map(|(_, name)| name.to_owned()).unwrap_or_default(),
        processors: thread::available_parallelism().map_or(1, usize::from),
        load: load.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or_default(),
    }
}

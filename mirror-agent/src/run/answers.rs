//! What a run says of itself when it is asked in between.

use std::{collections::BTreeMap, convert::Infallible, time::SystemTime};

use anyhow::Result;
use mirror_common::record::Direction;

use super::{Run, origin::Origin};
use crate::{
    config::{Config, Output},
    control::desk::{Desk, Question},
    links::Links,
    metrics::{RingTimings, Seen, Snapshot},
    output::sensor::Way,
    status::{DestinationStatus, HostStatus, InterfaceStatus, RingStatus, Status, Traffic},
};

impl Run {
    /// Answers a question.
    pub(super) async fn answer(&mut self, question: Question, config: &Config, links: &Links) {
        // Whoever has asked may be gone.
        match question {
            Question::Ping(reply) => {
                let _ = reply.send(());
            }
            Question::Flows(reply) => {
                let _ = reply.send(self.flows.answer());
            }
            Question::Snapshot(reply) => {
                let not_ready = self.not_ready(links).await;
                let snapshot = self.snapshot(config, not_ready).map_err(|error| format!("{error:#}"));
                let _ = reply.send(snapshot.map(Box::new));
            }
        }
    }

    /// Answers all questions while the run comes to its end.
    pub(super) async fn answer_all_at_end(&self, desk: &mut Desk, config: &Config) -> Infallible {
        loop {
            match desk.next().await {
                Question::Ping(reply) => {
                    let _ = reply.send(());
                }
                Question::Flows(reply) => {
                    let _ = reply.send(self.flows.answer());
                }
                Question::Snapshot(reply) => {
                    let snapshot = self.snapshot(config, vec!["stopping".into()]);
                    let _ = reply.send(snapshot.map(Box::new).map_err(|error| format!("{error:#}")));
                }
            }
        }
    }

    /// Why frames may not reach a sensor; nothing, where they do as far as is known.
    async fn not_ready(&mut self, links: &Links) -> Vec<String> {
        let mut reasons = match &self.origin {
            Origin::Live { hooks, interfaces, .. } => interfaces.missing(hooks),
            Origin::Replay(_) => Vec::new(),
        };
        if let Some(pool) = &mut self.pool {
            reasons.extend(pool.unreachable(links, self.origin.redirect()).await);
        }
        reasons
    }

    fn snapshot(&self, config: &Config, not_ready: Vec<String>) -> Result<Snapshot> {
        let report = self.report(config, self.started.elapsed())?;
        let mut seen: Vec<Seen> = Vec::new();
        for contribution in self.origin.contributions()? {
            let direction = match contribution.direction {
                Some(Direction::Ingress) => "ingress",
                Some(Direction::Egress) => "egress",
                None => "none",
            };
            let (frames, bytes) = (contribution.frames.seen, contribution.bytes);
            // A capture may be played twice.
            let its = |seen: &&mut Seen| seen.iface == contribution.name && seen.direction == direction;
            match seen.iter_mut().rev().find(its) {
                Some(seen) => {
                    seen.frames += frames;
                    seen.bytes += bytes;
                }
                None => seen.push(Seen { iface: contribution.name, direction, frames, bytes }),
            }
        }
        let numbers: BTreeMap<&str, u32> = match &self.origin {
            Origin::Live { hooks, .. } => hooks.names().collect(),
            Origin::Replay(_) => BTreeMap::new(),
        };
        let status = Status {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").into(),
            started: self
                .began
                .duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0.0, |since| (since.as_secs_f64() * 1e3).round() / 1e3),
            arguments: std::env::args_os().skip(1).map(|word| word.to_string_lossy().into()).collect(),
            ready: not_ready.is_empty(),
            not_ready,
            interfaces: interfaces(&seen, &numbers),
            destinations: self.destinations(&report, config),
            rings: (0..)
                .zip(&self.gauges)
                .map(|(index, gauge)| RingStatus {
                    index,
                    size: gauge.size() as u64,
                    used: gauge.used() as u64,
                })
                .collect(),
            host: HostStatus::default(),
            reloads: self.reloads,
            report,
        };
        let timings = self.gauges.iter().zip(&self.timings);
        let timings = timings.map(|(_, timings)| RingTimings {
            occupancy: timings.occupancy.read(),
            delay: timings.delay.read(),
        });
        Ok(Snapshot { status, seen, timings: timings.collect(), attached: numbers.len() })
    }

    fn destinations(&self, report: &crate::report::Report, config: &Config) -> Vec<DestinationStatus> {
        let ways = self.pool.as_ref().map(|pool| pool.ways()).unwrap_or_default();
        let transmit = |number: usize| match (&config.output, self.origin.redirect()) {
            (Output::File { .. }, _) => "file",
            (_, Some(_)) => "kernel",
            // One sensor's is counted with the threads' own.
            _ if report.destinations.len() == 1 => {
                name(self.counters.iter().filter_map(|counters| counters.way()).max())
            }
            _ => name(ways.get(number).copied().flatten()),
        };
        let one = |(number, destination): (usize, &crate::report::DestinationReport)| DestinationStatus {
            address: destination.address.clone(),
            name: destination.name.clone(),
            datagrams: destination.datagrams,
            bytes: destination.bytes,
            is_down: destination.is_down || self.pool.as_ref().is_some_and(|pool| pool.is_down(number)),
            transmit: transmit(number).into(),
        };
        report.destinations.iter().enumerate().map(one).collect()
    }
}

fn name(way: Option<Way>) -> &'static str {
    way.map_or("none", Way::name)
}

/// By interface, both directions together.
fn interfaces(seen: &[Seen], numbers: &BTreeMap<&str, u32>) -> Vec<InterfaceStatus> {
    let mut all: Vec<InterfaceStatus> = Vec::new();
    for Seen { iface, direction, frames, bytes } in seen {
        let traffic = Traffic { frames: *frames, bytes: *bytes };
        // Both directions of one come one after the other.
        if all.last().is_none_or(|last| last.name != *iface) {
            let ifindex = numbers.get(iface.as_str()).copied().unwrap_or_default();
            all.push(InterfaceStatus { name: iface.clone(), ifindex, ..InterfaceStatus::default() });
        }
        if let Some(last) = all.last_mut() {
            *(if *direction == "egress" { &mut last.egress } else { &mut last.ingress }) = traffic;
        }
    }
    all
}

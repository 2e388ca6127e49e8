//! Draws up the books of a run: what its origin counted and what the threads counted.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Result;

use super::{Run, origin::Origin};
use crate::{
    config::Config,
    ledger::{self, Ledger, OutputCounters},
    report::{DestinationReport, InterfaceReport, ReplayReport, Report},
};

impl Run {
    /// What the kernel and the network refused so far, by the name of the error.
    pub fn send_errors(&self) -> BTreeMap<String, u64> {
        let mut errors = BTreeMap::new();
        for counters in &self.counters {
            counters.add_errors_to(&mut errors);
        }
        for (errno, count) in self.origin.send_errors().unwrap_or_default() {
            if count > 0 {
                *errors.entry(ledger::name(errno)).or_default() += count;
            }
        }
        errors
    }

    /// The ledger so far.
    ///
    /// # Errors
    ///
    /// The kernel does not give the hooks' counters.
    pub fn ledger(&self) -> Result<Ledger> {
        let mut ledger = Ledger::default();
        for counters in &self.counters {
            ledger.sent += counters.sent.get();
            ledger.send_failed += counters.send_failed.get();
            ledger.too_big += counters.too_big.get();
        }
        // After what was sent: each frame is seen first, so that nothing is sent that was not seen.
        for contribution in self.origin.contributions()? {
            let frames = contribution.frames;
            ledger.seen += frames.seen;
            ledger.filtered += frames.filtered;
            ledger.sampled_out += frames.sampled_out;
            ledger.rate_limited += frames.rate_limited;
            ledger.own += frames.own;
            ledger.ring_full += frames.ring_full;
            ledger.copy_failed += frames.copy_failed;
            ledger.too_big += frames.too_big;
            ledger.sent += frames.sent;
            ledger.send_failed += frames.send_failed;
        }
        Ok(ledger)
    }

    /// The report of a run that took `duration`.
    ///
    /// # Errors
    ///
    /// As for [`Self::ledger`].
    pub fn report(&self, config: &Config, duration: Duration) -> Result<Report> {
        let mut interfaces: Vec<InterfaceReport> = Vec::new();
        let sum = |count: fn(&OutputCounters) -> u64| self.counters.iter().map(|one| count(one)).sum::<u64>();
        let mut datagrams = sum(|counters| counters.datagrams.get());
        let mut bytes = sum(|counters| counters.bytes.get());
        let mut truncated = sum(|counters| counters.truncated.get());
        let mut segments = sum(|counters| counters.segments.get());
        for contribution in self.origin.contributions()? {
            datagrams += contribution.datagrams;
            // In redirect mode each is a datagram of its own.
            segments += contribution.datagrams;
            bytes += contribution.payload;
            truncated += contribution.truncated;
            let (name, seen, bytes) = (contribution.name, contribution.frames.seen, contribution.bytes);
            match interfaces.iter_mut().find(|interface| interface.name == name) {
                Some(interface) => {
                    interface.seen += seen;
                    interface.bytes += bytes;
                }
                None => {
                    let vni = config.tunnel().and_then(|tunnel| tunnel.own_vni(&name));
                    interfaces.push(InterfaceReport { name, seen, bytes, vni });
                }
            }
        }
        let (mode, hook, replay) = match &self.origin {
            Origin::Live { redirect: Some(_), .. } => ("redirect", "tc", None),
            Origin::Live { hooks, .. } => ("ring", hooks.hook_name(), None),
            Origin::Replay(playback) => {
                let late_ms = (playback.late_ns() as f64 / 1e3).round() / 1e3;
                let replay = ReplayReport {
                    passes: playback.passes(),
                    backward_timestamps: playback.backward(),
                    late_ms,
                };
                ("replay", "none", Some(replay))
            }
        };
        Ok(Report {
            schema: 1,
            mode,
            hook,
            encap: config.tunnel().map_or("none", |tunnel| tunnel.encap.name()),
            duration_s: (duration.as_secs_f64() * 1e6).round() / 1e6,
            interfaces,
            frames: self.ledger()?,
            truncated,
            segments,
            datagrams_sent: datagrams,
            bytes_sent: bytes,
            send_errors: self.send_errors(),
            destinations: self
                .sensor
                .iter()
                .map(|address| DestinationReport { address: address.to_string(), datagrams, bytes })
                .collect(),
            replay,
        })
    }
}

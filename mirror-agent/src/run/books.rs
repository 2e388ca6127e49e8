//! Draws up the books of a run: what its origin counted and what the threads counted.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Result;

use super::{Run, origin::Origin};
use crate::{
    config::Config,
    ledger::{self, Ledger, OutputCounters},
    pool::{Pool, lone::Refusals},
    report::{InterfaceReport, ReplayReport, Report},
};

impl Run {
    /// Those of the sending threads, and of their ways to several sensors.
    fn all_counters(&self) -> impl Iterator<Item = &OutputCounters> {
        let of_pool = self.pool.iter().flat_map(|pool| pool.counters());
        self.counters.iter().map(|counters| &**counters).chain(of_pool)
    }

    /// Of these, those that count each frame once.
    fn counters_of_frames(&self) -> impl Iterator<Item = &OutputCounters> {
        let of_pool = self.pool.iter().filter(|pool| !pool.is_fanout()).flat_map(|pool| pool.counters());
        self.counters.iter().map(|counters| &**counters).chain(of_pool)
    }

    /// What speaks against one sensor, where all that is sent is for it.
    pub fn refusals(&self) -> Refusals {
        let sum = |count: fn(&OutputCounters) -> u64| self.all_counters().map(count).sum();
        Refusals {
            datagrams: sum(|counters| counters.datagrams.get()),
            failed: sum(|counters| counters.send_failed.get()),
            unreached: sum(|counters| counters.unreached.get()),
        }
    }

    /// What the kernel and the network refused so far, by the name of the error.
    pub fn send_errors(&self) -> BTreeMap<String, u64> {
        let mut errors = BTreeMap::new();
        for counters in self.all_counters() {
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
        for counters in self.counters_of_frames() {
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
        let mut datagrams = self.all_counters().map(|counters| counters.datagrams.get()).sum();
        let mut bytes = self.all_counters().map(|counters| counters.bytes.get()).sum();
        let mut truncated = self.counters_of_frames().map(|counters| counters.truncated.get()).sum::<u64>();
        let mut segments = self.counters_of_frames().map(|counters| counters.segments.get()).sum::<u64>();
        let is_fanout = self.pool.as_ref().is_some_and(Pool::is_fanout);
        for contribution in self.origin.contributions()? {
            datagrams += contribution.datagrams;
            // In redirect mode each is a datagram of its own.
            segments += if is_fanout { contribution.segments } else { contribution.datagrams };
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
            mode: mode.into(),
            hook: hook.into(),
            encap: config.tunnel().map_or("none", |tunnel| tunnel.encap.name()).into(),
            duration_s: (duration.as_secs_f64() * 1e6).round() / 1e6,
            interfaces,
            frames: self.ledger()?,
            truncated,
            segments,
            datagrams_sent: datagrams,
            bytes_sent: bytes,
            send_errors: self.send_errors(),
            destinations: match &self.pool {
                Some(pool) => pool.report(self.origin.redirect(), (datagrams, bytes))?,
                None => Vec::new(),
            },
            replay,
        })
    }
}

//! Draws up the books of a run: what the hooks counted and what the threads counted.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Result;

use super::Run;
use crate::{
    config::{Config, Output as Destination},
    ledger::{Ledger, OutputCounters},
    report::{DestinationReport, InterfaceReport, Report},
};

impl Run {
    /// What the kernel and the network refused so far, by the name of the error.
    pub fn send_errors(&self) -> BTreeMap<String, u64> {
        let mut errors = BTreeMap::new();
        for counters in &self.counters {
            counters.add_errors_to(&mut errors);
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
        }
        // After what was sent: each frame is seen first, so that nothing is sent that was not seen.
        for seen in self.hooks.seen()? {
            ledger.seen += seen.counters.seen;
            ledger.own += seen.counters.own;
            ledger.ring_full += seen.counters.ring_full;
            ledger.copy_failed += seen.counters.copy_failed;
            ledger.too_big += seen.counters.too_big;
            if let Some(limit) = &self.limit {
                let beyond = limit.beyond(seen.ifindex, seen.direction as u32).frames;
                ledger.seen = ledger.seen.saturating_sub(beyond);
            }
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
        for seen in self.hooks.seen()? {
            let beyond = self
                .limit
                .as_ref()
                .map(|limit| limit.beyond(seen.ifindex, seen.direction as u32))
                .unwrap_or_default();
            let (frames, bytes) = (seen.counters.seen - beyond.frames, seen.counters.bytes - beyond.bytes);
            match interfaces.iter_mut().find(|interface| interface.name == seen.name) {
                Some(interface) => {
                    interface.seen += frames;
                    interface.bytes += bytes;
                }
                None => interfaces.push(InterfaceReport { name: seen.name, seen: frames, bytes }),
            }
        }
        let sum = |count: fn(&OutputCounters) -> u64| self.counters.iter().map(|one| count(one)).sum();
        let datagrams = sum(|counters| counters.datagrams.get());
        let bytes = sum(|counters| counters.bytes.get());
        Ok(Report {
            schema: 1,
            mode: "ring",
            hook: "tc",
            encap: if matches!(config.output, Destination::Sensor { .. }) { "vxlan" } else { "none" },
            duration_s: (duration.as_secs_f64() * 1e3).round() / 1e3,
            interfaces,
            frames: self.ledger()?,
            truncated: 0,
            datagrams_sent: datagrams,
            bytes_sent: bytes,
            send_errors: self.send_errors(),
            destinations: self
                .sensor
                .iter()
                .map(|address| DestinationReport { address: address.to_string(), datagrams, bytes })
                .collect(),
        })
    }
}

//! The books: what became of every frame.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

use nix::errno::Errno;
use serde::Serialize;

/// Frames by what became of them. Once the agent has drained, `seen` is the sum of all others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Ledger {
    /// Frames that the hooks were called for.
    pub seen: u64,
    /// Refused by a filter.
    pub filtered: u64,
    /// Left out by sampling.
    pub sampled_out: u64,
    /// Refused by a rate limit.
    pub rate_limited: u64,
    /// The agent's own datagrams, and ICMP errors that quote them.
    pub own: u64,
    /// Lost because a ring had no room.
    pub ring_full: u64,
    /// Lost because the kernel could not read the frame's bytes.
    pub copy_failed: u64,
    /// Too long for a datagram.
    pub too_big: u64,
    /// Captured, and refused by the output; `send_errors` says why.
    pub send_failed: u64,
    /// Handed to the network, or written.
    pub sent: u64,
}

impl Ledger {
    /// Frames that are seen and in no other count: 0 once the agent has drained. Negative is a bug.
    #[must_use]
    pub fn unaccounted(&self) -> i64 {
        let Self { seen, filtered, sampled_out, rate_limited, own, .. } = *self;
        let named = filtered + sampled_out + rate_limited + own + self.lost() + self.sent;
        seen.wrapping_sub(named).cast_signed()
    }

    /// Frames that were wanted and did not reach the output.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.ring_full + self.copy_failed + self.too_big + self.send_failed
    }
}

/// One more than the largest errno of Linux.
const ERRNOS: usize = 134;

/// What one sending thread counts. It alone writes, anybody reads.
#[derive(Debug)]
#[repr(align(128))]
pub struct OutputCounters {
    /// Frames handed over.
    pub sent: Count,
    /// Of the frames handed over, those of which fewer bytes were there than on the wire.
    pub truncated: Count,
    /// Frames given up.
    pub send_failed: Count,
    /// Datagrams handed over, or written.
    pub datagrams: Count,
    /// UDP payload of those datagrams, in bytes.
    pub bytes: Count,
    /// Refusals by the kernel or by the network, of all kinds.
    pub refusals: Count,
    errors: [Count; ERRNOS],
}

impl Default for OutputCounters {
    fn default() -> Self {
        Self {
            sent: Count::default(),
            truncated: Count::default(),
            send_failed: Count::default(),
            datagrams: Count::default(),
            bytes: Count::default(),
            refusals: Count::default(),
            errors: std::array::from_fn(|_| Count::default()),
        }
    }
}

impl OutputCounters {
    /// Counts a refusal by the kernel or by the network.
    pub fn error(&self, errno: i32) {
        self.refusals.add(1);
        let index = usize::try_from(errno).unwrap_or(0);
        self.errors[if index < ERRNOS { index } else { 0 }].add(1);
    }

    /// Adds this thread's refusals to `total`, by errno's name.
    pub fn add_errors_to(&self, total: &mut BTreeMap<String, u64>) {
        for (errno, count) in (0..).zip(&self.errors) {
            let count = count.get();
            if count > 0 {
                *total.entry(format!("{:?}", Errno::from_raw(errno))).or_default() += count;
            }
        }
    }
}

/// A counter with one writer: no locked instruction is needed to add.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds; only the owning thread may.
    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    /// Replaces the count; only the owning thread may.
    pub fn set(&self, count: u64) {
        self.0.store(count, Ordering::Relaxed);
    }

    /// The count so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ledger_balances_over_every_name() {
        let ledger = Ledger {
            seen: 511,
            filtered: 1,
            sampled_out: 2,
            rate_limited: 4,
            own: 8,
            ring_full: 16,
            copy_failed: 32,
            too_big: 64,
            send_failed: 128,
            sent: 256,
        };
        assert_eq!(ledger.unaccounted(), 0);
        assert_eq!(Ledger { sent: 257, ..ledger }.unaccounted(), -1);
        assert_eq!(Ledger { seen: 512, ..ledger }.unaccounted(), 1);
    }

    #[test]
    fn errors_have_names() {
        let counters = OutputCounters::default();
        for errno in [libc::ECONNREFUSED, libc::ECONNREFUSED, libc::ENOBUFS, -1, 9999] {
            counters.error(errno);
        }
        let mut total = BTreeMap::new();
        counters.add_errors_to(&mut total);
        let names: Vec<_> = total.iter().map(|(name, count)| (name.as_str(), *count)).collect();
        assert_eq!(names, [("ECONNREFUSED", 2), ("ENOBUFS", 1), ("UnknownErrno", 2)]);
    }
}

//! The table of shares as the sending threads see it.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use mirror_common::pool::{BUCKETS, Table, bucket};

/// Which sensor has which flows. The control plane replaces it bucket by bucket while threads read: each bucket has
/// one sensor or another at any time, and nobody needs them to change together.
#[derive(Debug)]
pub struct Shares {
    members: AtomicU64,
    buckets: Box<[AtomicU8]>,
}

impl Shares {
    /// As `table` says.
    #[must_use]
    pub fn new(table: &Table) -> Self {
        let shares = Self {
            members: AtomicU64::new(0),
            buckets: std::iter::repeat_with(AtomicU8::default).take(BUCKETS).collect(),
        };
        shares.replace(table);
        shares
    }

    /// Takes over another table.
    pub fn replace(&self, table: &Table) {
        self.members.store(table.members, Ordering::Relaxed);
        for (bucket, sensor) in self.buckets.iter().zip(table.buckets) {
            bucket.store(sensor, Ordering::Relaxed);
        }
    }

    /// The number of the sensor that has a flow.
    #[inline]
    #[must_use]
    pub fn sensor(&self, flow_hash: u32) -> u8 {
        self.buckets.get(bucket(flow_hash)).map_or(0, |sensor| sensor.load(Ordering::Relaxed))
    }

    /// A bit for each sensor that gets every frame.
    #[must_use]
    pub fn members(&self) -> u64 {
        self.members.load(Ordering::Relaxed)
    }
}

//! How full a ring is and how long frames take, as a sending thread measures it: once a batch, with no memory to be had
//! and no lock to be waited for.

use serde::{Deserialize, Serialize};

use crate::ledger::Count;

/// Upper bounds of [`Timings::occupancy`], in 1024ths of a ring.
pub const OCCUPANCY: [u64; 13] = [1, 4, 16, 64, 128, 256, 384, 512, 640, 768, 896, 960, 1024];

/// Upper bounds of [`Timings::delay`], in nanoseconds: 10 microseconds to 2.5 seconds.
pub const DELAY: [u64; 17] = [
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
];

/// What one sending thread measures. It alone writes, anybody reads.
#[derive(Debug)]
#[repr(align(128))]
pub struct Timings {
    /// What part of the ring was taken when a batch was read, in 1024ths.
    pub occupancy: Histogram<{ OCCUPANCY.len() }>,
    /// How long it was from the capture of a frame to the end of the call that sent it, in nanoseconds.
    pub delay: Histogram<{ DELAY.len() }>,
}

impl Default for Timings {
    fn default() -> Self {
        Self { occupancy: Histogram::new(&OCCUPANCY), delay: Histogram::new(&DELAY) }
    }
}

/// How often a value was at most as great as each of some bounds, and greater than the bound before.
#[derive(Debug)]
pub struct Histogram<const N: usize> {
    bounds: &'static [u64; N],
    counts: [Count; N],
    /// Greater than all bounds.
    beyond: Count,
    sum: Count,
}

/// A histogram's counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Reading {
    /// Upper bounds, ascending.
    pub bounds: Vec<u64>,
    /// Values up to each bound and above the one before; the last are those above all of them.
    pub counts: Vec<u64>,
    /// Sum of all values.
    pub sum: u64,
}

impl<const N: usize> Histogram<N> {
    /// With these bounds, ascending.
    #[must_use]
    pub fn new(bounds: &'static [u64; N]) -> Self {
        Self {
            bounds,
            counts: std::array::from_fn(|_| Count::default()),
            beyond: Count::default(),
            sum: Count::default(),
        }
    }

    /// Counts a value; only the owning thread may.
    pub fn observe(&self, value: u64) {
        let place = self.bounds.partition_point(|bound| *bound < value);
        self.counts.get(place).unwrap_or(&self.beyond).add(1);
        self.sum.add(value);
    }

    /// The counts so far.
    #[must_use]
    pub fn read(&self) -> Reading {
        Reading {
            bounds: self.bounds.to_vec(),
            counts: self.counts.iter().chain([&self.beyond]).map(Count::get).collect(),
            sum: self.sum.get(),
        }
    }
}

impl Reading {
    /// How many values there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_below_their_bounds() {
        let histogram = Histogram::new(&[1, 4, 16]);
        for value in [0, 1, 2, 4, 5, 16, 17, 1000] {
            histogram.observe(value);
        }
        let reading = histogram.read();
        assert_eq!((&reading.bounds[..], &reading.counts[..]), (&[1, 4, 16][..], &[2, 2, 2, 2][..]));
        assert_eq!((reading.count(), reading.sum), (8, 1045));
    }

    #[test]
    fn bounds_ascend() {
        assert!(OCCUPANCY.is_sorted() && DELAY.is_sorted());
    }
}

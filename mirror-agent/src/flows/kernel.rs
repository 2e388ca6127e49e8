//! The kernel programs' part, in redirect mode: they put the beginnings of some frames into a ring.

use std::{
    io,
    os::fd::BorrowedFd,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Instant,
};

use mirror_common::watch::Watch;

use super::{PERIOD, SAMPLES_PER_PERIOD, table::Sample};
use crate::{mapping::Mapping, source::ring::RingReader};

/// What is looked at before the load is known.
const FIRST_ONE_IN: u32 = 64;

/// What is looked at at least.
const ONE_IN_MAX: u64 = 1 << 16;

/// What user space and the programs share.
#[derive(Debug)]
pub struct KernelSamples {
    watch: Mapping,
    ring: RingReader,
    /// Samples since `began`.
    samples: u64,
    began: Instant,
}

impl KernelSamples {
    /// Maps the array behind `watch`; the programs fill `ring`.
    ///
    /// # Errors
    ///
    /// What `mmap` says.
    pub fn new(watch: BorrowedFd<'_>, ring: RingReader) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let watch = Mapping::new(watch, 0, size_of::<Watch>(), protection)?;
        Ok(Self { watch, ring, samples: 0, began: Instant::now() })
    }

    /// Has the programs show frames.
    pub(super) fn watch(&mut self) {
        if self.one_in().load(Ordering::Relaxed) == 0 {
            (self.samples, self.began) = (0, Instant::now());
            self.one_in().store(FIRST_ONE_IN, Ordering::Relaxed);
        }
    }

    /// Has them show no more.
    pub(super) fn unwatch(&mut self) {
        self.one_in().store(0, Ordering::Relaxed);
        self.fetch(|_, _| {});
        self.take_missed();
    }

    /// Takes what was shown, and says to the programs how much is wanted.
    pub(super) fn fetch(&mut self, mut take: impl FnMut(Sample, &[u8])) {
        loop {
            let end = {
                let Some(batch) = self.ring.batch() else { break };
                self.samples += batch.frames.len() as u64;
                for frame in &batch.frames {
                    let sample = Sample {
                        // The programs write a number of 32 bits there.
                        weight: frame.header.time_ns as u32,
                        wire_len: frame.header.original_len,
                        flow_hash: frame.header.flow_hash,
                        captured_len: frame.bytes.len(),
                    };
                    take(sample, frame.bytes);
                }
                batch.end
            };
            self.ring.release(end);
        }
        let passed = self.began.elapsed();
        let one_in = self.one_in().load(Ordering::Relaxed);
        if one_in != 0 && passed >= PERIOD {
            let expected = SAMPLES_PER_PERIOD as f64 * passed.as_secs_f64() / PERIOD.as_secs_f64();
            let wanted = (f64::from(one_in) * self.samples as f64 / expected).ceil() as u64;
            let wanted = wanted.clamp(1, ONE_IN_MAX).next_power_of_two();
            // At most 2^16.
            self.one_in().store(wanted as u32, Ordering::Relaxed);
            (self.samples, self.began) = (0, Instant::now());
        }
    }

    /// How many there was no room for since this was last asked.
    pub(super) fn take_missed(&self) -> u64 {
        self.missed().swap(0, Ordering::Relaxed)
    }

    fn one_in(&self) -> &AtomicU32 {
        // SAFETY: the mapping begins with a `Watch`, whose first word this is; programs read it in one load.
        unsafe { self.watch.address().cast().as_ref() }
    }

    fn missed(&self) -> &AtomicU64 {
        // SAFETY: as above; programs add to it in one atomic instruction.
        unsafe { self.watch.address().byte_add(std::mem::offset_of!(Watch, missed)).cast().as_ref() }
    }
}

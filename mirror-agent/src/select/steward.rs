//! The thread that says to the kernel programs which flows they take under `--max-rate`. Should it be late, the rate is
//! kept all the same, by the programs themselves.

use std::{
    io,
    os::fd::BorrowedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use mirror_common::budget::{Demand, Grade, Plan, RANKS, Unit};

use super::{
    PERIOD_NS,
    controller::{Controller, Passed},
};
use crate::{affinity, mapping::Mapping, privileges};

/// What thread and kernel programs share.
#[derive(Debug)]
pub struct Shared {
    demand: Mapping,
    cpus: usize,
    grades: Mapping,
}

impl Shared {
    /// Maps the arrays behind the descriptors, the first of them with a value for each of `cpus` processors.
    ///
    /// # Errors
    ///
    /// What `mmap` says.
    pub fn new(demand: BorrowedFd<'_>, cpus: usize, grades: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Self {
            demand: Mapping::new(demand, 0, cpus * size_of::<Demand>(), libc::PROT_READ)?,
            cpus,
            grades: Mapping::new(grades, 0, RANKS, libc::PROT_READ | libc::PROT_WRITE)?,
        })
    }

    /// What flows of each rank have asked for, and what passed, on all processors.
    fn demand(&self, totals: &mut [u64; RANKS]) -> Passed {
        const WORDS: usize = size_of::<Demand>() / size_of::<u64>();
        totals.fill(0);
        let mut passed = Passed::default();
        for cpu in 0..self.cpus {
            // SAFETY: the mapping has a value for each processor, which is 64-bit numbers only and aligned; programs
            // write each with a single store.
            let words = unsafe {
                let first = self.demand.address().cast::<AtomicU64>().add(cpu * WORDS);
                std::slice::from_raw_parts(first.as_ptr(), WORDS)
            };
            let (ranks, others) = words.split_at(RANKS);
            for (total, word) in totals.iter_mut().zip(ranks) {
                *total = total.wrapping_add(word.load(Ordering::Relaxed));
            }
            passed.all = passed.all.wrapping_add(others[0].load(Ordering::Relaxed));
            passed.ends = passed.ends.wrapping_add(others[1].load(Ordering::Relaxed));
        }
        passed
    }

    fn admit(&self, grades: &[Grade; RANKS]) {
        // SAFETY: the mapping has a byte for each rank, which programs read one by one.
        let bytes =
            unsafe { std::slice::from_raw_parts(self.grades.address().cast::<AtomicU8>().as_ptr(), RANKS) };
        for (byte, grade) in bytes.iter().zip(grades) {
            // What is written goes to the other processors' caches.
            if byte.load(Ordering::Relaxed) != *grade as u8 {
                byte.store(*grade as u8, Ordering::Relaxed);
            }
        }
    }
}

/// The thread. It ends when this is dropped.
#[derive(Debug)]
pub struct Steward {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Steward {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// The system has no room for another thread.
    pub fn start(shared: Shared, plan: Plan, unit: Unit) -> io::Result<Self> {
        let is_over = Arc::<AtomicBool>::default();
        let over = Arc::clone(&is_over);
        let thread = thread::Builder::new().name("mirror-budget".into()).spawn(move || {
            if let Err(error) = affinity::take_precedence() {
                log::info!("the thread of --max-rate runs with ordinary priority: {error}");
            }
            // What it shares with the kernel programs is memory.
            privileges::keep(&[]);
            run(&shared, Controller::new(&plan, unit), &over);
        })?;
        Ok(Self { is_over, thread: Some(thread) })
    }
}

impl Drop for Steward {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic of that thread leaves the last thresholds in force.
            let _ = thread.join();
        }
    }
}

fn run(shared: &Shared, mut controller: Controller, is_over: &AtomicBool) {
    const PERIOD: Duration = Duration::from_nanos(PERIOD_NS);
    let mut totals = Box::new([0; RANKS]);
    let mut last = Instant::now();
    while !is_over.load(Ordering::Relaxed) {
        thread::park_timeout(PERIOD);
        let elapsed = last.elapsed();
        if elapsed < PERIOD {
            continue;
        }
        last += elapsed;
        let passed = shared.demand(&mut totals);
        shared.admit(controller.look(&totals, passed, elapsed.as_secs_f64()));
    }
}

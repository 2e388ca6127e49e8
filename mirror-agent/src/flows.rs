//! The busiest flows, while somebody watches.
//!
//! A sending thread hands every so manieth frame's first bytes over ([`sampler`], [`queue`]), or the kernel programs do
//! so in redirect mode ([`kernel`]); the control plane reads addresses and ports from them ([`key`]) and adds up
//! ([`table`]). Nobody watches until somebody asks; each question keeps it going for [`WATCH_TIME`].

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{sync::Notify, time::sleep};

pub mod answer;
pub mod kernel;
pub mod key;
pub mod queue;
pub mod sampler;
pub mod table;

use self::{
    answer::{Answer, SHOWN},
    kernel::KernelSamples,
    queue::{PREFIX, Queue},
    sampler::Sampler,
    table::{Sample, Table},
};

/// How long a question keeps the watching going.
pub const WATCH_TIME: Duration = Duration::from_secs(5);

/// How often samples are fetched while somebody watches.
pub const PERIOD: Duration = Duration::from_millis(100);

/// Samples that each source of them aims at in a [`PERIOD`].
pub const SAMPLES_PER_PERIOD: u64 = 400;

/// Until when frames are looked at. The sending threads read it once for each batch, and nothing else while it is 0.
#[derive(Debug)]
pub struct Watch {
    origin: Instant,
    /// Nanoseconds since `origin`; 0 while nobody watches.
    until_ns: AtomicU64,
}

impl Watch {
    fn new() -> Self {
        Self { origin: Instant::now(), until_ns: AtomicU64::new(0) }
    }

    /// Nanoseconds since the run began.
    fn now_ns(&self) -> u64 {
        // 584 years fit.
        self.origin.elapsed().as_nanos() as u64
    }

    /// The end of the watching, 0 where there is none. Relaxed: nothing else is read because of it, and a batch more or
    /// less does not matter.
    #[inline(always)]
    fn until_ns(&self) -> u64 {
        self.until_ns.load(Ordering::Relaxed)
    }

    fn prolong(&self) {
        let until = self.now_ns() + WATCH_TIME.as_nanos() as u64;
        self.until_ns.store(until, Ordering::Relaxed);
    }

    /// Ends the watching that was to last until `until_ns`, unless it has been prolonged.
    fn end(&self, until_ns: u64) {
        // Fails only where there is a new end.
        let _ = self.until_ns.compare_exchange(until_ns, 0, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// What a run knows of its flows. Shared by the control plane and whoever answers questions.
#[derive(Debug)]
pub struct Flows {
    watch: Arc<Watch>,
    /// Wakes [`Self::tend`].
    asked: Notify,
    /// The sending threads do not come by here.
    collection: Mutex<Collection>,
}

#[derive(Debug, Default)]
struct Collection {
    queues: Vec<Arc<Queue>>,
    kernel: Option<KernelSamples>,
    table: Table,
    /// Since when the table has what it has; `None` while nobody watches.
    since_ns: Option<u64>,
}

impl Default for Flows {
    fn default() -> Self {
        Self { watch: Arc::new(Watch::new()), asked: Notify::new(), collection: Mutex::default() }
    }
}

impl Flows {
    /// The part of a sending thread.
    pub fn sampler(&self) -> Sampler {
        let queue = Arc::new(Queue::new());
        self.collection().queues.push(Arc::clone(&queue));
        Sampler::new(Arc::clone(&self.watch), queue)
    }

    /// Has the kernel programs sample, in redirect mode.
    pub fn sample_in_kernel(&self, kernel: KernelSamples) {
        self.collection().kernel = Some(kernel);
    }

    /// The busiest flows since the last question, or since the first one of a row. Keeps the watching going.
    pub fn answer(&self) -> Answer {
        let mut collection = self.collection();
        let now = self.watch.now_ns();
        collection.fetch();
        let until = self.watch.until_ns();
        if until == 0 {
            // The first of a row. What an earlier one has left is not in its time.
            collection.end();
        }
        // Where the watching has just ended, its end counts.
        let until = until.min(now);
        let since = collection.since_ns.replace(now).unwrap_or(until);
        let seconds = Duration::from_nanos(until.saturating_sub(since)).as_secs_f64();
        let answer = collection.table.take(seconds, SHOWN);
        self.watch.prolong();
        if let Some(kernel) = &mut collection.kernel {
            kernel.watch();
        }
        drop(collection);
        self.asked.notify_one();
        answer
    }

    /// Fetches samples as long as somebody watches. Does not end.
    pub async fn tend(&self) {
        loop {
            self.asked.notified().await;
            loop {
                sleep(PERIOD).await;
                let until = self.watch.until_ns();
                let mut collection = self.collection();
                collection.fetch();
                if until <= self.watch.now_ns() {
                    self.watch.end(until);
                    collection.end();
                    break;
                }
            }
        }
    }

    fn collection(&self) -> std::sync::MutexGuard<'_, Collection> {
        // What a panic left is whole enough to count samples with.
        self.collection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collection {
    fn fetch(&mut self) {
        let Self { queues, kernel, table, .. } = self;
        let mut bytes = [0; PREFIX];
        for queue in queues {
            while let Some(sample) = queue.pop(&mut bytes) {
                table.add(&sample, &bytes[..sample.captured_len]);
            }
            table.missed += queue.take_missed();
        }
        if let Some(kernel) = kernel {
            kernel.fetch(|sample: Sample, bytes: &[u8]| table.add(&sample, bytes));
            table.missed += kernel.take_missed();
        }
    }

    fn end(&mut self) {
        self.table.clear();
        self.since_ns = None;
        if let Some(kernel) = &mut self.kernel {
            kernel.unwatch();
        }
    }
}

#[cfg(test)]
mod tests;

//! A sending thread's part: picks frames, as many as there is time to look at.

use std::sync::Arc;

use super::{PERIOD, SAMPLES_PER_PERIOD, Watch, queue::Queue};
use crate::source::Frame;

/// While the load is not known: fewer, so that the first period of the greatest load has room in the queue.
const FIRST_SAMPLES: u64 = SAMPLES_PER_PERIOD / 2;

/// Picks frames out of what a thread sends.
#[derive(Debug)]
pub struct Sampler {
    watch: Arc<Watch>,
    queue: Arc<Queue>,
    /// One frame in so many is picked.
    one_in: u32,
    /// Frames that pass before the next one is picked.
    gap: u32,
    /// When this period ends, and what it has brought so far.
    ends_ns: u64,
    frames: u64,
    samples: u64,
    /// Samples that this period is expected to bring; each time that it has brought as many, fewer are wanted.
    expected: u64,
    /// State of the generator of gaps; never 0.
    random: u32,
}

impl Sampler {
    pub(super) fn new(watch: Arc<Watch>, queue: Arc<Queue>) -> Self {
        let (expected, random) = (FIRST_SAMPLES, 0x9e37_79b9);
        Self { watch, queue, one_in: 1, gap: 0, ends_ns: 0, frames: 0, samples: 0, expected, random }
    }

    /// Looks at a batch. While nobody watches this is one load.
    #[inline(always)]
    pub fn look(&mut self, frames: &[Frame<'_>]) {
        let until = self.watch.until_ns();
        if until != 0 {
            self.pick(frames, until);
        }
    }

    #[cold]
    #[inline(never)]
    fn pick(&mut self, frames: &[Frame<'_>], until_ns: u64) {
        let now = self.watch.now_ns();
        if now >= until_ns {
            return self.watch.end(until_ns);
        }
        if now >= self.ends_ns {
            self.begin_period(now);
        }
        self.frames += frames.len() as u64;
        let mut at = self.gap as usize;
        while let Some(frame) = frames.get(at) {
            self.queue.push(self.one_in, frame.header.original_len, frame.header.flow_hash, frame.bytes);
            self.samples += 1;
            if self.samples.is_multiple_of(self.expected) {
                // More than that. Each sample says what it stands for.
                self.one_in = self.one_in.saturating_mul(2);
            }
            at += self.next_gap() as usize + 1;
        }
        // Less than 2^32: a gap at most.
        self.gap = (at - frames.len()) as u32;
    }

    fn begin_period(&mut self, now: u64) {
        let period = PERIOD.as_nanos() as u64;
        let is_next = now < self.ends_ns + period;
        // After a pause little is known: all frames, until they are too many.
        let (wanted, expected) = if is_next {
            (self.frames.div_ceil(SAMPLES_PER_PERIOD), SAMPLES_PER_PERIOD)
        } else {
            (1, FIRST_SAMPLES)
        };
        self.expected = expected;
        self.one_in = u32::try_from(wanted.max(1)).unwrap_or(u32::MAX);
        self.gap = self.gap.min(2 * (self.one_in - 1));
        self.ends_ns = now + period;
        self.frames = 0;
        self.samples = 0;
    }

    /// At random, so that no rhythm of the traffic is met: evenly from 0 to twice the mean.
    fn next_gap(&mut self) -> u32 {
        if self.one_in == 1 {
            return 0;
        }
        // Xorshift (Marsaglia 2003).
        self.random ^= self.random << 13;
        self.random ^= self.random >> 17;
        self.random ^= self.random << 5;
        let choices = 2 * u64::from(self.one_in) - 1;
        // Below `choices`, which has 33 bits: what is too much for the type is no gap that ever is.
        u32::try_from((u64::from(self.random) * choices) >> 32).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use mirror_common::record::RecordHeader;

    use super::{super::queue::PREFIX, *};
    use crate::source::BATCH;

    /// What `batches` batches of two flows, in turn, give: what the samples stand for, by flow, and how many they are.
    fn watch_batches(batches: usize) -> ([u64; 2], u64) {
        let (watch, queue) = (Arc::new(Watch::new()), Arc::new(Queue::new()));
        let mut sampler = Sampler::new(Arc::clone(&watch), Arc::clone(&queue));
        let headers = [1, 2].map(|flow_hash| RecordHeader { flow_hash, ..RecordHeader::default() });
        let frames: Vec<_> =
            headers.iter().cycle().take(BATCH).map(|header| Frame::whole(header, &[9; 64])).collect();
        watch.prolong();
        let (mut weights, mut samples) = ([0, 0], 0);
        for _ in 0..batches {
            sampler.look(&frames);
            while let Some(sample) = queue.pop(&mut [0; PREFIX]) {
                weights[sample.flow_hash as usize - 1] += u64::from(sample.weight);
                samples += 1;
            }
        }
        assert_eq!(queue.take_missed(), 0);
        (weights, samples)
    }

    #[test]
    fn few_frames_are_all_looked_at() {
        let (weights, samples) = watch_batches(3);
        assert_eq!((weights, samples), ([96, 96], 192));
    }

    #[test]
    fn samples_stand_for_all_frames_in_the_rhythm_of_a_batch_too() {
        let batches = 20_000;
        let (weights, samples) = watch_batches(batches);
        assert!(samples < (batches * BATCH / 20) as u64, "{samples} looked at");
        for weight in weights {
            let share = weight as f64 / (batches * BATCH / 2) as f64;
            assert!((0.8..1.2).contains(&share), "{share} of the flow, by {samples} samples");
        }
    }

    #[test]
    fn nothing_is_looked_at_while_nobody_watches() {
        let (watch, queue) = (Arc::new(Watch::new()), Arc::new(Queue::new()));
        let mut sampler = Sampler::new(Arc::clone(&watch), Arc::clone(&queue));
        let header = RecordHeader::default();
        let frames = [Frame::whole(&header, &[9; 64])];
        sampler.look(&frames);
        assert!(queue.pop(&mut [0; PREFIX]).is_none());
        watch.prolong();
        sampler.look(&frames);
        assert!(queue.pop(&mut [0; PREFIX]).is_some());
        watch.end(watch.until_ns());
        sampler.look(&frames);
        assert!(queue.pop(&mut [0; PREFIX]).is_none());
    }
}

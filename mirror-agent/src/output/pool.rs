//! Sends to several sensors, or to one whose address may change.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use arrayvec::ArrayVec;

use super::{Output, sensor::SensorOutput};
use crate::{
    ledger::{Fate, OutputCounters},
    pool::shares::Shares,
    source::{BATCH, Frame},
};

/// One thread's ways to all sensors.
pub struct PoolOutput {
    /// By the sensors' numbers. Never empty.
    ways: Vec<Way>,
    shares: Arc<Shares>,
    is_fanout: bool,
    /// Whose the last frame was, and whether more of the same super-frame follows.
    last: (u8, bool),
    /// Which ways had frames since their last flush, a bit each.
    used: u64,
    /// Whose turn it is to be flushed although it had no frame.
    next: usize,
    /// Calls since the last such flush.
    calls: u32,
}

/// Calls between two of these flushes, under load: an answer that comes when the last frame is long gone is to be heard
/// before the next one is sent, or it would be taken for an answer to that.
const CALLS_PER_FLUSH: u32 = 256;

/// One thread's way to one sensor.
pub struct Way {
    /// In use.
    pub output: SensorOutput,
    /// What it counts, where there are several.
    pub counters: Arc<OutputCounters>,
    /// Comes after it.
    pub successor: Arc<Successor>,
}

/// A way to another address of the same sensor, made by the control plane, and the one that it replaces, for it to
/// close.
#[derive(Default)]
pub struct Successor {
    is_there: AtomicBool,
    slot: Mutex<Option<Box<SensorOutput>>>,
    retired: Mutex<Option<Box<SensorOutput>>>,
}

impl Successor {
    /// Lets all frames that follow take this way.
    pub fn install(&self, output: SensorOutput) {
        self.close_retired();
        let before = lock(&self.slot).replace(Box::new(output));
        self.is_there.store(true, Ordering::Release);
        drop(before);
    }

    /// Closes what was replaced: that takes the kernel some time.
    pub fn close_retired(&self) {
        let retired = lock(&self.retired).take();
        drop(retired);
    }

    /// Called by the sending thread. It holds a lock for the length of a move, and only where there is something.
    fn take(&self, output: &mut SensorOutput) {
        self.is_there.store(false, Ordering::Relaxed);
        if let Some(mut successor) = lock(&self.slot).take() {
            std::mem::swap(output, &mut *successor);
            *lock(&self.retired) = Some(successor);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl PoolOutput {
    /// `ways` by the sensors' numbers, and how they share frames.
    #[must_use]
    pub fn new(ways: Vec<Way>, shares: Arc<Shares>, is_fanout: bool) -> Self {
        Self { ways, shares, is_fanout, last: (0, false), used: 0, next: 0, calls: 0 }
    }

    /// Flushes one way after the other, whether or not it had frames.
    fn flush_next(&mut self) -> io::Result<()> {
        self.next = (self.next + 1) % self.ways.len();
        let way = &mut self.ways[self.next];
        way.output.flush(&way.counters)
    }

    /// Sends each frame to the one sensor that has its flow.
    fn share_out(&mut self, frames: &[Frame<'_>]) -> io::Result<()> {
        let mut sensors = [0_u8; BATCH];
        let mut present = 0_u64;
        for (frame, sensor) in frames.iter().zip(&mut sensors) {
            // The parts of a super-frame stay together, whatever becomes of the shares meanwhile.
            let (last, continues) = self.last;
            *sensor = if continues { last } else { self.shares.sensor(frame.header.flow_hash) };
            self.last = (*sensor, frame.has_more);
            present |= 1 << (*sensor & 63);
        }
        self.used |= present;
        let mut result = Ok(());
        for (way, number) in self.ways.iter_mut().zip(0_u8..) {
            if present >> number & 1 == 0 {
                continue;
            }
            let sent = if present == 1 << number {
                way.output.send(frames, &way.counters)
            } else {
                let its = frames.iter().zip(sensors).filter(|(_, sensor)| *sensor == number);
                let its: ArrayVec<Frame<'_>, BATCH> = its.map(|(frame, _)| *frame).collect();
                way.output.send(&its, &way.counters)
            };
            way.counters.note_way(way.output.way());
            result = result.and(sent);
        }
        result
    }

    /// Sends each frame to all sensors that are there. It is sent where all of them took it.
    fn fan_out(&mut self, frames: &[Frame<'_>], counters: &OutputCounters) -> io::Result<()> {
        let members = self.shares.members();
        let mut fates = [Fate::Sent; BATCH];
        let mut result = Ok(());
        for (way, number) in self.ways.iter_mut().zip(0_u32..) {
            if members >> number & 1 == 0 {
                continue;
            }
            self.used |= 1 << number;
            result = result.and(way.output.send(frames, &way.counters));
            way.counters.note_way(way.output.way());
            way.counters.take_fates(|bytes, fate| {
                let place = frames.iter().position(|frame| std::ptr::addr_eq(frame.bytes.as_ptr(), bytes));
                if let Some(worst) = place.and_then(|place| fates.get_mut(place)) {
                    *worst = fate.max(*worst);
                }
            });
        }
        frames.iter().zip(fates).for_each(|(frame, fate)| counters.wire_frame_ended(frame, fate));
        result
    }
}

impl Output for PoolOutput {
    fn send(&mut self, frames: &[Frame<'_>], counters: &OutputCounters) -> io::Result<()> {
        for way in &mut self.ways {
            if way.successor.is_there.load(Ordering::Acquire) {
                way.successor.take(&mut way.output);
            }
        }
        if let [only] = &mut self.ways[..] {
            let result = only.output.send(frames, counters);
            counters.note_way(only.output.way());
            return result;
        }
        self.calls += 1;
        if self.calls >= CALLS_PER_FLUSH {
            self.calls = 0;
            self.flush_next()?;
        }
        if self.is_fanout { self.fan_out(frames, counters) } else { self.share_out(frames) }
    }

    fn flush(&mut self, counters: &OutputCounters) -> io::Result<()> {
        if let [only] = &mut self.ways[..] {
            return only.output.flush(counters);
        }
        let mut result = self.flush_next();
        let used = std::mem::take(&mut self.used);
        for (way, number) in self.ways.iter_mut().zip(0_u32..) {
            if used >> number & 1 != 0 {
                result = result.and(way.output.flush(&way.counters));
            }
        }
        // So that the control plane hears of the first one.
        counters.refusals.set(self.ways.iter().map(|way| way.counters.refusals.get()).sum());
        result
    }
}

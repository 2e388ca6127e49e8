//! Writes frames to a capture instead of sending them.

use std::{collections::HashMap, io};

use mirror_common::record;
use nix::time::{ClockId, clock_gettime};

use super::{
    Output,
    pcapng::{self, CaptureWriter, Direction, Target},
};
use crate::{ledger::OutputCounters, names::Names, source::Frame};

/// A capture with the mirrored interfaces' names.
pub struct Capture {
    writer: CaptureWriter,
    names: Names,
    /// Numbers in the capture by the kernel's numbers.
    interfaces: HashMap<u32, u32>,
    /// Frames that were written and not yet flushed: nobody can say that they arrived.
    unflushed: u64,
}

/// Frames after which a capture is flushed even under load, so that what a full disk makes known late
/// stays little.
const FLUSH_EVERY: u64 = 16_384;

impl Capture {
    /// Begins a capture in `target`.
    ///
    /// # Errors
    ///
    /// Those of the file.
    pub fn begin(target: Target, names: Names) -> io::Result<Self> {
        Ok(Self { writer: target.begin()?, names, interfaces: HashMap::new(), unflushed: 0 })
    }

    fn write(&mut self, frame: &Frame<'_>, since_epoch_ns: i64) -> io::Result<()> {
        let header = frame.header;
        let interface = match self.interfaces.get(&header.ifindex) {
            Some(&interface) => interface,
            None => {
                let interface = self.writer.add_interface(&self.names.get(header.ifindex))?;
                self.interfaces.insert(header.ifindex, interface);
                interface
            }
        };
        self.writer.write_frame(&pcapng::Frame {
            interface,
            time_ns: header.time_ns.saturating_add_signed(since_epoch_ns),
            direction: match record::Direction::from_number(header.direction) {
                Some(record::Direction::Ingress) => Some(Direction::Inbound),
                Some(record::Direction::Egress) => Some(Direction::Outbound),
                None => None,
            },
            original_len: header.original_len,
            data: &[frame.bytes],
        })
    }

    /// Counts what is held back as failed: the file ends somewhere inside it.
    fn give_up(&mut self, counters: &OutputCounters, more: u64) {
        counters.send_failed.add(self.unflushed + more);
        self.unflushed = 0;
    }
}

impl Output for Capture {
    fn send(&mut self, frames: &[Frame<'_>], counters: &OutputCounters) -> io::Result<()> {
        let since_epoch_ns = epoch_minus_monotonic_ns();
        for (done, frame) in frames.iter().enumerate() {
            if let Err(error) = self.write(frame, since_epoch_ns) {
                counters.error(error.raw_os_error().unwrap_or(0));
                self.give_up(counters, (frames.len() - done) as u64);
                return Err(error);
            }
            self.unflushed += 1;
        }
        if self.unflushed >= FLUSH_EVERY { self.flush(counters) } else { Ok(()) }
    }

    fn flush(&mut self, counters: &OutputCounters) -> io::Result<()> {
        if self.interfaces.is_empty() {
            // libpcap refuses a capture with no interface, and this may stay one with no frame.
            for (ifindex, name) in self.names.all() {
                let interface = self.writer.add_interface(&name)?;
                self.interfaces.insert(ifindex, interface);
            }
        }
        if let Err(error) = self.writer.flush() {
            counters.error(error.raw_os_error().unwrap_or(0));
            self.give_up(counters, 0);
            return Err(error);
        }
        counters.sent.add(self.unflushed);
        self.unflushed = 0;
        Ok(())
    }
}

/// What has to be added to `CLOCK_MONOTONIC` to get the time since 1970. Asked for anew each time,
/// because the host's clock may be set.
fn epoch_minus_monotonic_ns() -> i64 {
    let now = |clock| clock_gettime(clock).map_or(0, |time| time.tv_sec() * 1_000_000_000 + time.tv_nsec());
    // Of several tries the one with the least time between the readings: the thread may lose its
    // processor there.
    (0..3)
        .map(|_| {
            let before = now(ClockId::CLOCK_MONOTONIC);
            let epoch = now(ClockId::CLOCK_REALTIME);
            let after = now(ClockId::CLOCK_MONOTONIC);
            (after - before, epoch - before - (after - before) / 2)
        })
        .min()
        .map_or(0, |(_, difference)| difference)
}

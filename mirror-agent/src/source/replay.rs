//! The source of replayed frames: chunks that the read-ahead thread has decoded, handed out when they are
//! due.
//!
//! A capture's way: [`super::capture`] reads it, [`read_ahead`] makes [`chunk`]s of Ethernet frames on a
//! thread of its own, and here they get their time ([`pace`]) and are counted ([`playback`]).

use std::{
    os::fd::AsFd as _,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, TryRecvError},
    },
    time::Duration,
};

use arrayvec::ArrayVec;
use nix::{
    poll::{PollFd, PollFlags, ppoll},
    sys::{eventfd::EventFd, time::TimeSpec},
};

use self::{
    chunk::Chunk,
    pace::{Pace, Pacing},
    playback::Playback,
};
use super::{BATCH, Batch, Frame, Source};
use crate::{
    clock::monotonic_ns,
    select::{Choice, Selector},
    stop::Stop,
};

pub mod chunk;
pub mod datagrams;
pub mod pace;
pub mod playback;
pub mod read_ahead;

/// A wait is slept up to this long before its end and then spun: the kernel wakes a sleeper some tens of
/// microseconds late, more on a virtual machine.
const SPIN_NS: u64 = 150_000;

/// Used chunks that are given back at once: the reading thread sleeps when all are filled, and waking it
/// costs this thread some microseconds. Few enough that the reading thread always has others to fill.
const RETURNED_TOGETHER: usize = read_ahead::CHUNKS / 2;

/// The captures' frames, in their order.
pub struct ReplaySource {
    chunks: Receiver<Chunk>,
    /// Where chunks go that are used up, to be filled again; and those that wait to go there together.
    used: SyncSender<Chunk>,
    used_up: ArrayVec<Chunk, RETURNED_TOGETHER>,
    /// Readable when there is another chunk, or will never be one.
    filled: Arc<EventFd>,
    chunk: Option<Chunk>,
    /// Of the chunk: the next frame, its first byte, the next trouble, and the next that the filter refused.
    next: Place,
    pace: Pace,
    /// Which frames are mirrored; all where there is none.
    selector: Option<Selector>,
    /// The captures' own time, where that is what the selector goes by.
    capture_clock: Option<Pace>,
    /// When the next frame is due, if that was asked already.
    due_ns: Option<u64>,
    /// What is left of `--limit`.
    left: u64,
    playback: Arc<Playback>,
    is_over: bool,
}

/// A place in a chunk.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    frame: usize,
    byte: usize,
    trouble: usize,
    refused: usize,
}

impl ReplaySource {
    /// Plays what comes through `chunks`, at most `limit` frames of it.
    #[must_use]
    pub fn new(link: read_ahead::Link, pace: Pace, limit: Option<u64>, playback: Arc<Playback>) -> Self {
        let read_ahead::Link { chunks, used, filled } = link;
        Self {
            chunks,
            used,
            used_up: ArrayVec::new(),
            filled,
            chunk: None,
            next: Place::default(),
            pace,
            selector: None,
            capture_clock: None,
            due_ns: None,
            left: limit.unwrap_or(u64::MAX),
            playback,
            is_over: false,
        }
    }

    /// Plays only the frames that `selector` takes: by the time at which they are played or, `in_capture_time`, by
    /// that at which they were captured, which makes the same of the same captures.
    #[must_use]
    pub fn selecting(self, selector: Option<Selector>, in_capture_time: bool) -> Self {
        let by_capture = in_capture_time && selector.as_ref().is_some_and(Selector::needs_time);
        let capture_clock = by_capture.then(|| Pace::new(Pacing::Speed(1.0)));
        Self { selector, capture_clock, ..self }
    }

    /// Goes on to a chunk that has a frame to send, past everything that has not. `false` where there is
    /// none yet, or never again.
    fn goes_on_to_frame(&mut self) -> bool {
        loop {
            if self.left == 0 {
                self.is_over = true;
            }
            if self.is_over {
                return false;
            }
            let Some(chunk) = &self.chunk else {
                match self.chunks.try_recv() {
                    Ok(chunk) => {
                        if chunk.begins_file {
                            self.pace.begin_file();
                            if let Some(clock) = &mut self.capture_clock {
                                clock.begin_file();
                            }
                            self.playback.begin_file(chunk.file);
                        }
                        self.next = Place::default();
                        self.chunk = Some(chunk);
                    }
                    Err(TryRecvError::Empty) => return false,
                    Err(TryRecvError::Disconnected) => {
                        // The last chunk says that it is the last.
                        self.playback.reader_failed();
                        self.is_over = true;
                    }
                }
                continue;
            };
            while let Some((frame, trouble)) = chunk.troubles.get(self.next.trouble)
                && *frame <= self.next.frame
            {
                self.playback.note(chunk.file, trouble);
                self.next.trouble += 1;
            }
            // Those behind the last frame are not looked at where the limit ends the run before.
            while let Some(refused) = chunk.filtered.get(self.next.refused)
                && refused.before <= self.next.frame
            {
                self.playback.filtered(chunk.file, refused.frames, refused.bytes);
                self.next.refused += 1;
            }
            if self.next.frame < chunk.headers.len() {
                return true;
            }
            if chunk.ends_pass {
                self.playback.pass_ended();
            }
            self.playback.moved_to(chunk.read_to);
            self.is_over |= chunk.is_last;
            if let Some(chunk) = self.chunk.take() {
                self.give_back(chunk);
            }
        }
    }

    fn give_back(&mut self, mut chunk: Chunk) {
        chunk.clear();
        self.used_up.push(chunk);
        if self.used_up.is_full() {
            for chunk in self.used_up.drain(..) {
                // The reader has ended where nobody takes it.
                let _ = self.used.send(chunk);
            }
        }
    }

    /// How many of the chunk's frames are due, up to a batch, a trouble, or the limit were all of them to be mirrored.
    fn count_due(&mut self) -> usize {
        let Some(chunk) = &self.chunk else {
            return 0;
        };
        let end = chunk
            .troubles
            .get(self.next.trouble)
            .map_or(chunk.headers.len(), |(frame, _)| *frame)
            .min(self.next.frame.saturating_add(BATCH));
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        let now = if self.pace.is_top_speed() { 0 } else { monotonic_ns() };
        let mut count = 0;
        for header in chunk.headers[self.next.frame..end].iter().take(left) {
            let due = match self.due_ns.take() {
                Some(due) => due,
                None => self.pace.due_ns(header.time_ns, header.captured_len as usize, now),
            };
            if due > now {
                self.due_ns = Some(due);
                break;
            }
            if !self.pace.is_top_speed() {
                self.pace.let_through(now);
            }
            count += 1;
        }
        self.playback.note_pace(self.pace.backward(), self.pace.late_ns());
        count
    }
}

impl Source for ReplaySource {
    fn batch(&mut self) -> Option<Batch<'_>> {
        if !self.goes_on_to_frame() {
            return None;
        }
        let count = self.count_due();
        if count == 0 {
            return None;
        }
        let chunk = self.chunk.as_ref()?;
        let mut frames = ArrayVec::new();
        let now = match (&self.selector, &self.capture_clock) {
            (Some(selector), None) if selector.needs_time() => monotonic_ns(),
            _ => 0,
        };
        let (mut byte, mut wire_bytes) = (self.next.byte, 0);
        for header in &chunk.headers[self.next.frame..self.next.frame + count] {
            let end = byte + header.captured_len as usize;
            let bytes = &chunk.bytes[byte..end];
            let choice = match &mut self.selector {
                None => Choice::Taken,
                Some(selector) => {
                    let now = match &mut self.capture_clock {
                        Some(clock) => clock.due_ns(header.time_ns, 0, 0),
                        None => now,
                    };
                    selector.choose(header.flow_hash, bytes, header.original_len, now)
                }
            };
            match choice {
                Choice::Taken => frames.push(Frame::whole(header, bytes)),
                left_out => self.playback.left_out(chunk.file, left_out),
            }
            byte = end;
            wire_bytes += u64::from(header.original_len);
        }
        self.left -= frames.len() as u64;
        self.next.frame += count;
        self.next.byte = byte;
        while let Some(refused) = chunk.filtered.get(self.next.refused)
            && refused.before < self.next.frame
        {
            self.playback.filtered(chunk.file, refused.frames, refused.bytes);
            self.next.refused += 1;
        }
        self.playback.seen(chunk.file, count as u64, wire_bytes);
        self.playback.moved_to(chunk.read_at(self.next.frame));
        Some(Batch { frames, end: self.next.frame, occupancy: None })
    }

    fn release(&mut self, _end: usize) {
        // The chunk stays until it is used up.
    }

    fn wait(&mut self, stop: &Stop) {
        if self.chunk.is_none() {
            // Ends when there is a chunk, or at the stop.
            self.rest(stop, None, true);
            return;
        }
        let Some(due) = self.due_ns else {
            return;
        };
        let left = due.saturating_sub(monotonic_ns());
        if left > SPIN_NS {
            self.rest(stop, Some(Duration::from_nanos(left - SPIN_NS)), false);
        }
        while monotonic_ns() < due && !stop.drains() {
            std::hint::spin_loop();
        }
    }

    fn abandon(&mut self) {
        self.is_over = true;
    }

    fn is_over(&self, stop: &Stop) -> bool {
        // What was not handed out was not seen: there is nothing to drain.
        self.is_over || stop.drains()
    }
}

impl ReplaySource {
    /// Sleeps until `stop`, until `time` has passed, or, if `for_chunk`, until there is a chunk.
    fn rest(&self, stop: &Stop, time: Option<Duration>, for_chunk: bool) {
        let mut waits_for = ArrayVec::<PollFd<'_>, 2>::new();
        waits_for.push(PollFd::new(stop.as_fd(), PollFlags::POLLIN));
        if for_chunk {
            waits_for.push(PollFd::new(self.filled.as_fd(), PollFlags::POLLIN));
        }
        // Woken, timed out or interrupted: the next look tells what there is to do.
        let _ = ppoll(&mut waits_for, time.map(TimeSpec::from), None);
        if for_chunk {
            // Fails only where it is not readable, which is fine too.
            let _ = self.filled.read();
        }
    }
}

#[cfg(test)]
mod tests;

//! The source of live frames: a ring, and the doorbell by which hooks wake its reader.

use std::{os::fd::AsFd as _, thread, time::Duration};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Batch, Source, ring::RingReader};
use crate::{kernel::doorbell::Doorbell, stop::Stop};

/// The pause after the last frame, before the thread asks to be woken: under load there is work again by
/// then, for many frames at once, and no hook pays for a wake-up.
const PAUSE: Duration = Duration::from_micros(50);

/// How the thread waits for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Idle {
    /// There was work just now.
    No,
    /// Looked again after a pause: nothing.
    Paused,
    /// The doorbell was armed for a moment: nothing.
    Armed,
}

/// One ring's frames.
pub struct LiveSource {
    /// Nobody else reads it.
    reader: RingReader,
    doorbell: Doorbell,
    idle: Idle,
}

impl LiveSource {
    /// Reads `reader`, woken by `doorbell`.
    #[must_use]
    pub fn new(reader: RingReader, doorbell: Doorbell) -> Self {
        Self { reader, doorbell, idle: Idle::No }
    }

    /// Waits until there may be work, the longer the longer there was none.
    fn rest(&self, stop: &Stop) -> Idle {
        if self.idle == Idle::No {
            thread::sleep(PAUSE);
            return Idle::Paused;
        }
        self.doorbell.arm();
        if self.reader.used() > 0 {
            // A record is being written: it is there in less than a microsecond.
            self.doorbell.disarm();
            std::hint::spin_loop();
            return Idle::Paused;
        }
        // A hook that looked at the doorbell just before it was armed may have put its record into the
        // ring just after we looked: on both sides a write is followed by a read, and the hook has no
        // barrier between them. Such a record is visible within nanoseconds, so the first sleep is short;
        // the doorbell stays armed, so that before the second, long one no hook can have missed it.
        let timeout = if self.idle == Idle::Paused { PollTimeout::from(1_u8) } else { PollTimeout::NONE };
        let mut waits_for = [
            PollFd::new(self.reader.as_fd(), PollFlags::POLLIN),
            PollFd::new(stop.as_fd(), PollFlags::POLLIN),
        ];
        // Woken, timed out or interrupted: the ring tells what there is to do.
        let _ = poll(&mut waits_for, timeout);
        Idle::Armed
    }
}

impl Source for LiveSource {
    fn batch(&mut self) -> Option<Batch<'_>> {
        let batch = self.reader.batch()?;
        if self.idle == Idle::Armed {
            self.doorbell.disarm();
        }
        self.idle = Idle::No;
        Some(batch)
    }

    fn release(&mut self, end: usize) {
        self.reader.release(end);
    }

    fn wait(&mut self, stop: &Stop) {
        self.idle = self.rest(stop);
    }

    fn is_over(&self, stop: &Stop) -> bool {
        stop.drains() && self.reader.used() == 0
    }
}

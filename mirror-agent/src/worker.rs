//! A sending thread: takes frames out of its ring and hands them to its output, in order.

use std::{
    io,
    os::fd::AsFd as _,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::sync::mpsc::UnboundedSender;

use crate::{
    affinity, kernel::doorbell::Doorbell, ledger::OutputCounters, limit::Limit, output::Output,
    source::ring::RingReader, stop::Stop,
};

/// What a sending thread tells the control plane.
#[derive(Debug)]
pub enum Event {
    /// `--limit` is used up.
    LimitReached,
    /// The kernel or the network refused something for the first time.
    FirstRefusal,
    /// The output is gone for good.
    OutputFailed(io::Error),
}

/// Everything that a sending thread needs.
pub struct Worker<O> {
    /// Its ring, which nobody else reads.
    pub reader: RingReader,
    /// How hooks wake it.
    pub doorbell: Doorbell,
    /// Where frames go.
    pub output: O,
    /// What it counts.
    pub counters: Arc<OutputCounters>,
    /// Says when to end.
    pub stop: Arc<Stop>,
    /// `--limit`, shared by all threads.
    pub limit: Option<Arc<Limit>>,
    /// The control plane's ear.
    pub events: UnboundedSender<Event>,
}

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

impl<O: Output + Send + 'static> Worker<O> {
    /// Starts the thread and keeps it on processor `cpu`.
    ///
    /// # Errors
    ///
    /// The system has no room for another thread.
    pub fn start(mut self, index: usize, cpu: usize) -> io::Result<JoinHandle<()>> {
        thread::Builder::new().name(format!("mirror-{index}")).spawn(move || {
            if let Err(error) = affinity::pin(cpu) {
                log::warn!("cannot keep sending thread {index} on processor {cpu}: {error}");
            }
            if let Err(error) = affinity::take_precedence() {
                log::info!("sending thread {index} runs with ordinary priority: {error}");
            }
            // The default lets the kernel prolong each pause by 50 microseconds.
            // SAFETY: PR_SET_TIMERSLACK takes a number of nanoseconds and touches no memory.
            unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
            self.run();
        })
    }

    fn run(&mut self) {
        let mut idle = Idle::No;
        let mut output_works = true;
        let mut told = false;
        loop {
            if !told && self.counters.refusals.get() > 0 {
                told = true;
                // Nobody listens any more once the agent stops.
                let _ = self.events.send(Event::FirstRefusal);
            }
            if let Some(result) = self.serve(output_works) {
                if idle == Idle::Armed {
                    self.doorbell.disarm();
                }
                idle = Idle::No;
                output_works &= self.check(result);
                continue;
            }
            if output_works {
                let result = self.output.flush(&self.counters);
                output_works = self.check(result);
            }
            if self.stop.drains() && self.reader.used() == 0 {
                return;
            }
            idle = self.wait(idle);
        }
    }

    /// Hands over one batch. `None` where there is none.
    fn serve(&mut self, output_works: bool) -> Option<io::Result<()>> {
        let (end, result) = {
            let batch = self.reader.batch();
            if batch.is_empty() {
                return None;
            }
            let allowed = match &self.limit {
                None => batch.frames.len(),
                Some(limit) => {
                    let allowed = limit.take(batch.frames.len());
                    limit.note_beyond(&batch.frames[allowed..]);
                    allowed
                }
            };
            let frames = &batch.frames[..allowed];
            let result = if output_works && !self.stop.gives_up() {
                self.output.send(frames, &self.counters)
            } else {
                self.counters.send_failed.add(frames.len() as u64);
                Ok(())
            };
            if allowed > 0 && self.limit.as_ref().is_some_and(|limit| limit.is_reached()) {
                // Nobody listens any more once the agent stops.
                let _ = self.events.send(Event::LimitReached);
            }
            (batch.end, result)
        };
        self.reader.release(end);
        Some(result)
    }

    /// Passes an output's end on to the control plane. Returns whether the output still works.
    fn check(&self, result: io::Result<()>) -> bool {
        match result {
            Ok(()) => true,
            Err(error) => {
                // Nobody listens any more once the agent stops.
                let _ = self.events.send(Event::OutputFailed(error));
                false
            }
        }
    }

    /// Waits until there may be work, the longer the longer there was none.
    fn wait(&self, idle: Idle) -> Idle {
        if idle == Idle::No {
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
        let timeout = if idle == Idle::Paused { PollTimeout::from(1_u8) } else { PollTimeout::NONE };
        let mut waits_for = [
            PollFd::new(self.reader.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.stop.as_fd(), PollFlags::POLLIN),
        ];
        // Woken, timed out or interrupted: the ring tells what there is to do.
        let _ = poll(&mut waits_for, timeout);
        Idle::Armed
    }
}

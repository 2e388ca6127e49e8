//! A sending thread: takes frames from its source and hands them to its output, in order.

use std::{
    io,
    sync::Arc,
    thread::{self, JoinHandle},
};

use tokio::sync::mpsc::UnboundedSender;

use crate::{
    affinity, clock::monotonic_ns, flows::sampler::Sampler, ledger::OutputCounters, limit::Limit,
    output::Output, privileges, shape::stage::Stage, source::Source, stop::Stop, timings::Timings,
};

/// What a sending thread tells the control plane.
#[derive(Debug)]
pub enum Event {
    /// `--limit` is used up.
    LimitReached,
    /// There is nothing left to send.
    SourceEnded,
    /// The kernel or the network refused something for the first time.
    FirstRefusal,
    /// The output is gone for good.
    OutputFailed(io::Error),
}

/// Everything that a sending thread needs.
pub struct Worker<S, O> {
    /// Where frames come from.
    pub source: S,
    /// Where frames go.
    pub output: O,
    /// Makes of the frames of the source those of the wire.
    pub stage: Stage,
    /// Shows some of them to who watches the flows.
    pub sampler: Sampler,
    /// What it counts.
    pub counters: Arc<OutputCounters>,
    /// What it measures, where frames come out of a ring.
    pub timings: Arc<Timings>,
    /// Says when to end.
    pub stop: Arc<Stop>,
    /// `--limit`, shared by all threads.
    pub limit: Option<Arc<Limit>>,
    /// The control plane's ear.
    pub events: UnboundedSender<Event>,
}

impl<S: Source + Send + 'static, O: Output + Send + 'static> Worker<S, O> {
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
            privileges::keep_to_send();
            self.run();
        })
    }

    fn run(&mut self) {
        let mut output_works = true;
        let mut told = false;
        while !self.source.is_over(&self.stop) {
            if !told && self.counters.refusals.get() > 0 {
                told = true;
                // Nobody listens any more once the agent stops.
                let _ = self.events.send(Event::FirstRefusal);
            }
            if let Some(result) = self.serve(output_works) {
                if output_works && !self.check(result) {
                    output_works = false;
                    self.source.abandon();
                }
                continue;
            }
            if output_works {
                let result = self.output.flush(&self.counters);
                output_works = self.check(result);
            }
            if !self.source.is_over(&self.stop) {
                self.source.wait(&self.stop);
            }
        }
        if output_works {
            let result = self.output.finish(&self.counters);
            self.check(result);
        }
        // Nobody listens any more once the agent stops.
        let _ = self.events.send(Event::SourceEnded);
    }

    /// Hands over one batch. `None` where there is none.
    fn serve(&mut self, output_works: bool) -> Option<io::Result<()>> {
        let (end, result) = {
            let batch = self.source.batch()?;
            let allowed = match &self.limit {
                None => batch.frames.len(),
                Some(limit) => {
                    let allowed = limit.take(batch.frames.len());
                    limit.note_beyond(&batch.frames[allowed..]);
                    allowed
                }
            };
            let frames = &batch.frames[..allowed];
            self.sampler.look(frames);
            let result = if output_works && !self.stop.gives_up() {
                // The oldest one of those that tell.
                let captured = batch.occupancy.and_then(|occupancy| {
                    self.timings.occupancy.observe(u64::from(occupancy));
                    frames.iter().map(|frame| frame.header.time_ns).find(|time| *time != 0)
                });
                let result = self.stage.pass_on(frames, &self.counters, |wire_frames| {
                    self.output.send(wire_frames, &self.counters)
                });
                if let Some(captured) = captured {
                    self.timings.delay.observe(monotonic_ns().saturating_sub(captured));
                }
                result
            } else {
                self.counters.give_up(frames.len() as u64);
                Ok(())
            };
            if allowed > 0 && self.limit.as_ref().is_some_and(|limit| limit.is_reached()) {
                // Nobody listens any more once the agent stops.
                let _ = self.events.send(Event::LimitReached);
            }
            (batch.end, result)
        };
        self.source.release(end);
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
}

//! Sends frames from a host: at a settled rate, or as fast as it goes.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::{
    frames,
    host::Host,
    packet_socket::{PacketSocket, pin},
};

/// Frames handed to the kernel at once.
const BATCH: usize = 32;

/// How frames are sent.
#[derive(Debug, Clone)]
pub struct Generator {
    iface: String,
    rate: u64,
    hooks: bool,
    processor: usize,
}

/// What was sent.
#[derive(Debug, Clone, Copy)]
pub struct Sent {
    pub frames: u64,
    pub bytes: u64,
    pub time: Duration,
}

/// A generator that has started.
#[derive(Debug)]
pub struct Running {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: JoinHandle<Sent>,
}

impl Generator {
    /// Sends out of `iface`, past its own hooks, from processor 0, as fast as it goes.
    ///
    /// One processor, because a veth hands frames on through a queue of each processor: a thread that
    /// moved would overtake itself.
    #[must_use]
    pub fn new(iface: &str) -> Self {
        Self { iface: iface.to_owned(), rate: u64::MAX, hooks: false, processor: 0 }
    }

    /// At most so many frames a second.
    #[must_use]
    pub fn rate(self, rate: u64) -> Self {
        Self { rate, ..self }
    }

    /// Sends through the interface's own egress hooks, as a program's ordinary packets go.
    #[must_use]
    pub fn through_hooks(self) -> Self {
        Self { hooks: true, ..self }
    }

    /// Sends from another processor.
    #[must_use]
    pub fn on_processor(self, processor: usize) -> Self {
        Self { processor, ..self }
    }

    /// Sends the crafted frames with these numbers, once.
    #[must_use]
    pub fn start(self, host: &Host, numbers: Range<u64>) -> Running {
        self.run(host, move |sent, buffer| {
            let number = numbers.start + sent;
            let more = number < numbers.end;
            if more {
                frames::write(number, buffer);
            }
            more
        })
    }

    /// As [`Generator::start`], to the end.
    ///
    /// # Panics
    /// Where sending fails.
    pub fn send(self, host: &Host, numbers: Range<u64>) -> Sent {
        self.start(host, numbers).finish()
    }

    /// Sends these frames, once.
    ///
    /// # Panics
    /// Where sending fails.
    pub fn send_frames(self, host: &Host, list: Vec<Vec<u8>>) -> Sent {
        self.start_frames(host, list).finish()
    }

    /// As [`Generator::send_frames`], and does not wait.
    #[must_use]
    pub fn start_frames(self, host: &Host, list: Vec<Vec<u8>>) -> Running {
        self.run(host, move |sent, buffer| {
            let Some(frame) = list.get(sent as usize) else { return false };
            buffer.clone_from(frame);
            true
        })
    }

    /// Sends these frames again and again, in their order, until it is stopped.
    #[must_use]
    pub fn cycle(self, host: &Host, list: Vec<Vec<u8>>) -> Running {
        self.run_batches(host, move |sent, batch| {
            for (buffer, number) in batch.iter_mut().zip(sent..) {
                buffer.clone_from(&list[number as usize % list.len()]);
            }
            batch.len()
        })
    }

    /// Sends the crafted frames with these numbers again and again, until it is stopped. They are made
    /// beforehand, so this is as fast as a sender gets.
    #[must_use]
    pub fn flood(self, host: &Host, numbers: Range<u64>) -> Running {
        self.cycle(host, numbers.map(frames::frame).collect())
    }

    /// Sends what `make` writes, which is told how many frames went before, and says whether there is one.
    #[must_use]
    pub fn run(self, host: &Host, make: impl Fn(u64, &mut Vec<u8>) -> bool + Send + 'static) -> Running {
        self.run_batches(host, move |sent, batch| {
            batch
                .iter_mut()
                .zip(sent..)
                .map_while(|(buffer, number)| make(number, buffer).then_some(()))
                .count()
        })
    }

    /// `make` gets how many frames went before and buffers to write the next ones to, and says how many it
    /// wrote: none at the end.
    fn run_batches(
        self,
        host: &Host,
        make: impl Fn(u64, &mut [Vec<u8>]) -> usize + Send + 'static,
    ) -> Running {
        let stop = Arc::<AtomicBool>::default();
        let sent = Arc::<AtomicU64>::default();
        let (stopped, counter) = (stop.clone(), sent.clone());
        let thread = host.thread("generator", move || {
            pin(self.processor);
            let mut socket = PacketSocket::sender(&self.iface);
            if !self.hooks {
                socket = socket.bypassing_hooks();
            }
            let mut buffers = [const { Vec::new() }; BATCH];
            let mut total = Sent { frames: 0, bytes: 0, time: Duration::ZERO };
            let start = Instant::now();
            while !stopped.load(Ordering::Relaxed) {
                let due = wait_until_due(start, total.frames, self.rate);
                let made = make(total.frames, &mut buffers[..due]);
                if made == 0 {
                    break;
                }
                let batch = &buffers[..made];
                send_all(&socket, batch);
                total.frames += made as u64;
                total.bytes += batch.iter().map(|frame| frame.len() as u64).sum::<u64>();
                counter.store(total.frames, Ordering::Relaxed);
            }
            total.time = start.elapsed();
            total
        });
        Running { stop, sent, thread }
    }
}

impl Running {
    /// How many frames have gone.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Waits until everything is sent.
    ///
    /// # Panics
    /// Where sending failed.
    pub fn finish(self) -> Sent {
        self.thread.join().expect("the generator failed")
    }

    /// Stops now.
    ///
    /// # Panics
    /// Where sending failed.
    pub fn stop(self) -> Sent {
        self.stop.store(true, Ordering::Relaxed);
        self.finish()
    }
}

/// Waits until at least one frame is due, and gives how many are, up to a batch.
fn wait_until_due(start: Instant, sent: u64, rate: u64) -> usize {
    if rate == u64::MAX {
        return BATCH;
    }
    loop {
        let due = (start.elapsed().as_secs_f64() * rate as f64) as u64 + 1;
        if due > sent {
            return usize::try_from(due - sent).unwrap_or(BATCH).min(BATCH);
        }
        let next = start + Duration::from_secs_f64(sent as f64 / rate as f64);
        thread::sleep(next.saturating_duration_since(Instant::now()).max(Duration::from_micros(50)));
    }
}

fn send_all(socket: &PacketSocket, batch: &[Vec<u8>]) {
    let mut rest = batch;
    while !rest.is_empty() {
        match socket.send(rest) {
            Ok(sent) => rest = &rest[sent..],
            // The other end's queue is full; what was taken so far is on its way.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => thread::yield_now(),
            Err(error) => panic!("cannot send {} bytes: {error}", rest[0].len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{lab::Lab, lock, tap::Tap};

    #[test]
    fn every_frame_leaves_once_and_at_the_rate() {
        let _turn = lock::shared();
        let lab = Lab::new();
        let tap = Tap::everything(&lab.router, "eth0");
        let sent = Generator::new("eth0").rate(5_000).send(&lab.client, 0..5_000);
        assert_eq!(sent.frames, 5_000);
        assert_eq!(sent.bytes, (0..5_000).map(|index| frames::frame(index).len() as u64).sum::<u64>());
        assert_eq!(tap.count(), 5_000);
        let seconds = sent.time.as_secs_f64();
        assert!((0.95..1.5).contains(&seconds), "{seconds} s for 5000 frames at 5000/s");
    }
}

//! Where frames go.

use std::{io, time::Duration};

use crate::{ledger::OutputCounters, source::Frame};

pub mod books;
pub mod capture;
mod card;
mod helpers;
mod interface;
mod learn;
mod messages;
mod oversize;
pub mod packet_socket;
pub mod pcapng;
pub mod pool;
pub mod program;
mod raw_socket;
pub mod sensor;
pub(crate) mod sighting;
pub(crate) mod sockopt;
pub mod stack;
mod story;
pub(crate) mod tap;
pub mod udp_sockets;
pub mod xsk;

/// Tries for one frame where a queue is full, before it is given up: with the pauses between them about
/// 10 ms, while later frames wait in the ring.
const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_micros(100);

/// The end of a frame's way. Each sending thread has its own.
pub trait Output {
    /// Hands at most [`BATCH`](crate::source::BATCH) frames over in order, and counts each as sent or as failed. Parts of a super-frame are frames
    /// here, and may come in more than one call.
    ///
    /// # Errors
    ///
    /// Only where the output is gone for good: a full disk, a closed pipe. The frames whose last part is in
    /// the call are counted as failed then, and so are those that were to be counted on a later flush.
    fn send(&mut self, frames: &[Frame<'_>], counters: &OutputCounters) -> io::Result<()>;

    /// Called when there is nothing to send: passes on what is held back.
    ///
    /// # Errors
    ///
    /// As for [`Self::send`].
    fn flush(&mut self, counters: &OutputCounters) -> io::Result<()>;

    /// Called once, after the last frame: a flush, and whatever an end needs besides.
    ///
    /// # Errors
    ///
    /// As for [`Self::send`].
    fn finish(&mut self, counters: &OutputCounters) -> io::Result<()> {
        self.flush(counters)
    }
}

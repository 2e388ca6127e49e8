//! Counts frames that leave as one or more packets.

use crate::{encap::fragment::Packet, ledger::OutputCounters, source::Frame};

/// A packet's place in a call of `send`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Index of the frame that it carries, or carries a part of.
    pub frame: usize,
    /// Whether it is the frame's last packet.
    pub is_last: bool,
}

/// What became of the frames of one call. They are counted in order.
#[derive(Debug)]
pub struct Books<'a> {
    /// The frames.
    pub frames: &'a [Frame<'a>],
    counters: &'a OutputCounters,
    /// Bytes between UDP and a frame.
    header_len: usize,
    /// The last frame that was given up.
    given_up: Option<usize>,
    has_refusals: bool,
    /// Frames whose last packet was dealt with.
    done: usize,
}

impl<'a> Books<'a> {
    /// For the frames of one call, each in a datagram with `header_len` bytes between UDP and the frame.
    #[must_use]
    pub fn new(frames: &'a [Frame<'a>], counters: &'a OutputCounters, header_len: usize) -> Self {
        Self { frames, counters, header_len, given_up: None, has_refusals: false, done: 0 }
    }

    /// The kernel took a packet.
    pub fn sent(&mut self, part: Part) {
        if !part.is_last {
            return;
        }
        self.done = part.frame + 1;
        if self.given_up == Some(part.frame) {
            return;
        }
        self.counters.datagram_sent(&self.frames[part.frame], self.header_len);
    }

    /// The kernel refused a packet for good: its frame is lost, once.
    pub fn gave_up(&mut self, part: Part, errno: i32) {
        if part.is_last {
            self.done = part.frame + 1;
        }
        if self.given_up != Some(part.frame) {
            self.given_up = Some(part.frame);
            self.has_refusals = true;
            self.counters.error(errno);
            self.counters.wire_frame_failed(&self.frames[part.frame]);
        }
    }

    /// Whether a frame was given up.
    #[must_use]
    pub fn has_refusals(&self) -> bool {
        self.has_refusals
    }

    /// Whether a packet of this frame was given up: the others are of no use.
    #[must_use]
    pub fn is_lost(&self, frame: usize) -> bool {
        self.given_up == Some(frame)
    }

    /// How many frames, from the first, are counted.
    #[must_use]
    pub fn counted(&self) -> usize {
        match self.given_up {
            Some(frame) if frame == self.done => frame + 1,
            _ => self.done,
        }
    }

    /// The bytes that follow a packet's header, in the parts that they lie in.
    #[must_use]
    pub fn body(&self, frame: usize, packet: &Packet) -> [&'a [u8]; 2] {
        self.frames[frame].slice(packet.body())
    }
}

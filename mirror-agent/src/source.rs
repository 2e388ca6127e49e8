//! Where frames come from.

use std::ops::Range;

use arrayvec::ArrayVec;
use mirror_common::record::RecordHeader;

use crate::stop::Stop;

pub mod capture;
pub mod live;
pub mod replay;
pub mod ring;

/// Frames handed out at once: enough to make a system call's own cost small, few enough to stay in the
/// first-level cache with their headers.
pub const BATCH: usize = 64;

/// A frame, in the memory of its source.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// What is known of the frame that was seen. This one may be a part of it: a super-frame is cut into the
    /// frames that were on the wire.
    pub header: &'a RecordHeader,
    /// Its first bytes where they were made anew: headers. Most often none.
    pub head: &'a [u8],
    /// Its captured bytes behind `head`.
    pub bytes: &'a [u8],
    /// Bytes that it had on the wire.
    pub wire_len: u32,
    /// Whether another part of the same super-frame follows.
    pub has_more: bool,
}

impl<'a> Frame<'a> {
    /// A frame as it was seen, from the Ethernet header on.
    #[must_use]
    pub fn whole(header: &'a RecordHeader, bytes: &'a [u8]) -> Self {
        Self { header, head: &[], bytes, wire_len: header.original_len, has_more: false }
    }

    /// Captured bytes.
    #[must_use]
    pub fn captured_len(&self) -> usize {
        self.head.len() + self.bytes.len()
    }

    /// Whether it had more bytes on the wire than there are.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.captured_len() < self.wire_len as usize
    }

    /// Its first bytes, at most `length`.
    #[must_use]
    pub fn cut_to(self, length: usize) -> Self {
        let [head, bytes] = self.slice(0..length.min(self.captured_len()));
        Self { head, bytes, ..self }
    }

    /// Its bytes in the parts that they lie in.
    #[must_use]
    pub fn parts(&self) -> [&'a [u8]; 2] {
        [self.head, self.bytes]
    }

    /// Some of its bytes, in the parts that they lie in. `range` is within the captured bytes.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> [&'a [u8]; 2] {
        let split = self.head.len();
        let in_bytes = range.start.saturating_sub(split)..range.end.saturating_sub(split);
        [&self.head[range.start.min(split)..range.end.min(split)], &self.bytes[in_bytes]]
    }
}

/// Frames in their order. They stay where they are until [`Source::release`] gives their place back.
#[derive(Debug)]
pub struct Batch<'a> {
    /// The frames; there may be none, where something else is to be released.
    pub frames: ArrayVec<Frame<'a>, BATCH>,
    /// Position behind them, for [`Source::release`].
    pub end: usize,
    /// What part of the ring was taken when they were read, in 1024ths, rounded up; none where there is no ring.
    pub occupancy: Option<u32>,
}

/// The beginning of a frame's way. Each sending thread has its own.
pub trait Source {
    /// The frames that are to be sent now, in order. `None` where there are none yet.
    fn batch(&mut self) -> Option<Batch<'_>>;

    /// Gives back the place of the last batch, up to its end: the output is done with its frames.
    fn release(&mut self, end: usize);

    /// Called when [`Self::batch`] had nothing: waits until it may have something, or until `stop`.
    fn wait(&mut self, stop: &Stop);

    /// The output takes no more: no frame is to be taken out of a capture in vain.
    fn abandon(&mut self) {}

    /// Whether there will never be another frame, given that `stop` asked for the end or did not.
    fn is_over(&self, stop: &Stop) -> bool;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_found_in_both_parts() {
        let header = RecordHeader::default();
        let frame = Frame { head: b"abc", ..Frame::whole(&header, b"defg") };
        assert_eq!(frame.captured_len(), 7);
        for (range, expected) in [
            (0..7, ["abc", "defg"]),
            (0..2, ["ab", ""]),
            (2..5, ["c", "de"]),
            (3..4, ["", "d"]),
            (5..7, ["", "fg"]),
            (3..3, ["", ""]),
        ] {
            assert_eq!(frame.slice(range.clone()), expected.map(str::as_bytes), "{range:?}");
        }
    }
}

//! Makes of a frame, as a hook saw it, the frames that are on the wire.
//!
//! The stack hands segments of one connection through in one piece (GSO, GRO), and leaves checksums to the
//! card. A hook sees the piece, and sums that are not done. Here it is cut and completed by the rules of the
//! kernel's own software for cards that can do neither. What is not understood goes as it is.

use std::ops::Range;

use mirror_common::record::{ChecksumPlace, RecordHeader, Segmentation};

mod complete;
mod crc32c;
mod fragments;
mod layers;
mod patch;
mod segments;
pub mod stage;

use complete::Completion;
use fragments::Fragments;
use segments::Segments;

/// Most bytes of headers in front of a segment's payload.
pub const HEAD_MAX: usize = 512;

/// A wire frame: what [`Cut::next`] wrote as its head, and then a part of the frame as it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Bytes of the head: an even number, so that whoever sums up the wire frame can go on with the body.
    pub head_len: usize,
    /// The frame's bytes that follow.
    pub body: Range<usize>,
    /// Whether it is the frame's last.
    pub is_last: bool,
}

impl Piece {
    /// Bytes of the wire frame.
    #[must_use]
    pub fn length(&self) -> usize {
        self.head_len + self.body.len()
    }
}

/// A frame's wire frames, in order.
#[derive(Clone, Debug)]
pub struct Cut<'a> {
    bytes: &'a [u8],
    way: Way,
}

#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "on the stack, and the large ones are the usual ones")]
enum Way {
    Complete(Completion),
    Segments(Segments),
    Fragments(Fragments),
}

impl<'a> Cut<'a> {
    /// `None` where the frame goes as it is. Most do, and it takes two comparisons to say so.
    #[inline(always)]
    #[must_use]
    pub fn of(header: &RecordHeader, bytes: &'a [u8]) -> Option<Self> {
        if Self::is_none(header) { None } else { Self::new(header, bytes) }
    }

    /// Whether the frame goes as it is, whatever its bytes.
    #[inline(always)]
    #[must_use]
    pub const fn is_none(header: &RecordHeader) -> bool {
        header.gso_size == 0 && header.checksum == 0
    }

    #[inline(never)]
    fn new(header: &RecordHeader, bytes: &'a [u8]) -> Option<Self> {
        // Lengths and checksums of what is not all there would be made up.
        if (bytes.len() as u64) < u64::from(header.original_len) {
            return None;
        }
        let place = ChecksumPlace::unpacked(header.checksum);
        let complete = || Completion::of(bytes, place?).map(Way::Complete);
        let size = usize::from(header.gso_size);
        let way = match Segmentation::from_number(header.segmentation)? {
            Segmentation::None => complete(),
            _ if size == 0 => complete(),
            // One that is short enough has only its checksum missing.
            Segmentation::Fragments => {
                Fragments::of(header, bytes, place).map(Way::Fragments).or_else(complete)
            }
            kind => Segments::of(bytes, kind, size, place).map(Way::Segments),
        }?;
        Some(Self { bytes, way })
    }

    /// Writes the next wire frame's head: all of its headers. `None` after the last.
    #[inline]
    #[must_use]
    pub fn next(&mut self, head: &mut [u8; HEAD_MAX]) -> Option<Piece> {
        match &mut self.way {
            Way::Complete(completion) => completion.next(self.bytes, head),
            Way::Segments(segments) => segments.next(self.bytes, head),
            Way::Fragments(fragments) => fragments.next(self.bytes, head),
        }
    }

    /// Wire frames that are still to come.
    #[must_use]
    pub fn count(&self) -> usize {
        match &self.way {
            Way::Complete(completion) => completion.left(),
            Way::Segments(segments) => segments.left(),
            Way::Fragments(fragments) => fragments.left(),
        }
    }
}

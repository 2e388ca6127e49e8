//! The books: what became of every frame.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use crate::{
    output::sensor::Way,
    source::{BATCH, Frame},
};

/// Frames by what became of them. Once the agent has drained, `seen` is the sum of all others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Ledger {
    /// Frames that the hooks were called for.
    pub seen: u64,
    /// Refused by a filter.
    pub filtered: u64,
    /// Left out by sampling.
    pub sampled_out: u64,
    /// Refused by a rate limit.
    pub rate_limited: u64,
    /// The agent's own datagrams, and ICMP errors that quote them.
    pub own: u64,
    /// Lost because a ring had no room.
    pub ring_full: u64,
    /// Lost because the kernel could not read the frame's bytes.
    pub copy_failed: u64,
    /// Too long for a datagram.
    pub too_big: u64,
    /// Captured, and refused by the output; `send_errors` says why.
    pub send_failed: u64,
    /// Handed to the network, or written.
    pub sent: u64,
}

impl Ledger {
    /// Frames that are seen and in no other count: 0 once the agent has drained. Negative is a bug.
    #[must_use]
    pub fn unaccounted(&self) -> i64 {
        let Self { seen, filtered, sampled_out, rate_limited, own, .. } = *self;
        let named = filtered + sampled_out + rate_limited + own + self.lost() + self.sent;
        seen.wrapping_sub(named).cast_signed()
    }

    /// Frames that were wanted and did not reach the output.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.ring_full + self.copy_failed + self.too_big + self.send_failed
    }
}

/// One more than the largest errno of Linux.
const ERRNOS: usize = 134;

/// What one sending thread counts. It alone writes, anybody reads.
#[derive(Debug)]
#[repr(align(128))]
pub struct OutputCounters {
    /// Frames handed over.
    pub sent: Count,
    /// Of the frames handed over, those of which fewer bytes were sent than were on the wire.
    pub truncated: Count,
    /// Frames given up.
    pub send_failed: Count,
    /// Frames left out because a path takes no datagram as long.
    pub too_big: Count,
    /// Frames on the wire that were handed over: a super-frame counts as often as it was cut.
    pub segments: Count,
    /// Datagrams handed over, or written.
    pub datagrams: Count,
    /// UDP payload of those datagrams, in bytes.
    pub bytes: Count,
    /// Refusals by the kernel or by the network, of all kinds.
    pub refusals: Count,
    /// Of these: answers of the network, that a datagram was not taken at its end.
    pub unreached: Count,
    /// Which way the last datagrams left: one more than its number among [`Way::ALL`].
    way: Count,
    /// Not 0 where a part of the super-frame in hand was cut.
    cut_part: Count,
    /// Not 0 where a part of the super-frame in hand is lost: [`FAILED`] or [`TOO_BIG`].
    lost_part: Count,
    errors: [Count; ERRNOS],
    /// Only where each frame goes to several sensors.
    fates: Option<Box<Fates>>,
}

/// What became of frames that were not sent whole, in one call of an output that is one of several.
#[derive(Debug)]
struct Fates {
    length: Count,
    /// By where the frame's bytes are: no two frames of a call have the same.
    frames: [Count; BATCH],
    fates: [Count; BATCH],
}

/// What became of a frame, or of a part of a super-frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// It was sent.
    #[default]
    Sent,
    /// A part of it was sent.
    Cut,
    /// It was left out for its length.
    TooBig,
    /// It was given up.
    Failed,
}

/// A part of a super-frame was given up.
const FAILED: u64 = 1;
/// A part of a super-frame was left out, and none was given up.
const TOO_BIG: u64 = 2;
/// A part was cut: only among [`Fates`].
const CUT: u64 = 3;

impl Default for OutputCounters {
    fn default() -> Self {
        Self {
            sent: Count::default(),
            truncated: Count::default(),
            send_failed: Count::default(),
            too_big: Count::default(),
            segments: Count::default(),
            datagrams: Count::default(),
            bytes: Count::default(),
            refusals: Count::default(),
            unreached: Count::default(),
            way: Count::default(),
            cut_part: Count::default(),
            lost_part: Count::default(),
            errors: std::array::from_fn(|_| Count::default()),
            fates: None,
        }
    }
}

impl OutputCounters {
    /// For an output that is one of several which all get each frame: remembers what became of frames.
    #[must_use]
    pub fn with_fates() -> Self {
        let fates = Fates {
            length: Count::default(),
            frames: std::array::from_fn(|_| Count::default()),
            fates: std::array::from_fn(|_| Count::default()),
        };
        Self { fates: Some(Box::new(fates)), ..Self::default() }
    }

    /// Notes which way datagrams leave.
    pub fn note_way(&self, way: Way) {
        self.way.set(way as u64 + 1);
    }

    /// Which way the last ones left; `None` before there were any.
    #[must_use]
    pub fn way(&self) -> Option<Way> {
        let number = usize::try_from(self.way.get()).ok()?.checked_sub(1)?;
        Way::ALL.get(number).copied()
    }

    /// Tells what became of the frames since the last call, of those that were not sent whole.
    pub fn take_fates(&self, mut tell: impl FnMut(*const u8, Fate)) {
        let Some(fates) = &self.fates else { return };
        let length = fates.length.get() as usize;
        for (frame, fate) in fates.frames.iter().zip(&fates.fates).take(length) {
            let fate = match fate.get() {
                FAILED => Fate::Failed,
                TOO_BIG => Fate::TooBig,
                _ => Fate::Cut,
            };
            tell(std::ptr::without_provenance(frame.get() as usize), fate);
        }
        fates.length.set(0);
    }

    fn note(&self, frame: &Frame<'_>, fate: u64) {
        let Some(fates) = &self.fates else { return };
        let length = fates.length.get();
        // A call has no more frames than there is room for.
        if let (Some(place), Some(its)) =
            (fates.frames.get(length as usize), fates.fates.get(length as usize))
        {
            place.set(frame.bytes.as_ptr().addr() as u64);
            its.set(fate);
            fates.length.set(length + 1);
        }
    }

    /// Counts a frame, or the next part of a super-frame, of which several outputs had this to say, the worst.
    pub fn wire_frame_ended(&self, frame: &Frame<'_>, fate: Fate) {
        match fate {
            Fate::Failed => self.wire_frame_failed(frame),
            Fate::TooBig => self.wire_frame_too_big(frame),
            Fate::Cut => {
                self.cut_part.set(1);
                self.wire_frame_sent(frame);
            }
            Fate::Sent => self.wire_frame_sent(frame),
        }
    }

    /// Counts a frame, or the next part of a super-frame, as handed over. A super-frame is counted with its
    /// last part, as sent if no part of it was lost.
    pub fn wire_frame_sent(&self, frame: &Frame<'_>) {
        self.segments.add(1);
        if frame.is_cut() {
            self.cut_part.set(1);
            self.note(frame, CUT);
        }
        self.end_part(frame);
    }

    /// As [`Self::wire_frame_sent`], in a datagram of its own, with `header_len` bytes between UDP and the frame.
    pub fn datagram_sent(&self, frame: &Frame<'_>, header_len: usize) {
        self.wire_frame_sent(frame);
        self.datagrams.add(1);
        self.bytes.add(Self::payload(frame, header_len));
    }

    /// UDP payload of a frame's datagram, in bytes: `header_len` and the frame.
    #[must_use]
    pub fn payload(frame: &Frame<'_>, header_len: usize) -> u64 {
        (header_len + frame.captured_len()) as u64
    }

    /// Counts a frame, or the next part of a super-frame, as given up.
    pub fn wire_frame_failed(&self, frame: &Frame<'_>) {
        self.lost_part.set(FAILED);
        self.note(frame, FAILED);
        self.end_part(frame);
    }

    /// Counts a frame, or the next part of a super-frame, as left out for its length.
    pub fn wire_frame_too_big(&self, frame: &Frame<'_>) {
        if self.lost_part.get() == 0 {
            self.lost_part.set(TOO_BIG);
        }
        self.note(frame, TOO_BIG);
        self.end_part(frame);
    }

    /// Gives up `frames` that were seen, the one in hand, if there is one, among them.
    pub fn give_up(&self, frames: u64) {
        self.send_failed.add(frames);
        self.cut_part.set(0);
        self.lost_part.set(0);
    }

    fn end_part(&self, frame: &Frame<'_>) {
        if frame.has_more {
            return;
        }
        match self.lost_part.get() {
            0 => {
                self.sent.add(1);
                self.truncated.add(self.cut_part.get());
            }
            FAILED => self.send_failed.add(1),
            _ => self.too_big.add(1),
        }
        self.cut_part.set(0);
        self.lost_part.set(0);
    }

    /// Moves what `other` counts as handed over, and as left out, to these counters.
    pub fn take_over(&self, other: &Self) {
        let counts: [fn(&Self) -> &Count; 6] = [
            |of| &of.sent,
            |of| &of.truncated,
            |of| &of.too_big,
            |of| &of.segments,
            |of| &of.datagrams,
            |of| &of.bytes,
        ];
        for count in counts {
            count(self).add(count(other).get());
            count(other).set(0);
        }
    }

    /// Counts a refusal by the kernel or by the network.
    pub fn error(&self, errno: i32) {
        self.refusals.add(1);
        let index = usize::try_from(errno).unwrap_or(0);
        self.errors[if index < ERRNOS { index } else { 0 }].add(1);
    }

    /// This thread's refusals, by errno.
    pub fn errors(&self) -> impl Iterator<Item = (i32, u64)> {
        (0..).zip(self.errors.iter().map(Count::get)).filter(|(_, count)| *count > 0)
    }

    /// Adds this thread's refusals to `total`, by errno's name.
    pub fn add_errors_to(&self, total: &mut BTreeMap<String, u64>) {
        for (errno, count) in self.errors() {
            *total.entry(name(errno)).or_default() += count;
        }
    }
}

/// The name of an error, as in errno(3).
#[must_use]
pub fn name(errno: i32) -> String {
    format!("{:?}", Errno::from_raw(errno))
}

/// A counter with one writer: no locked instruction is needed to add.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds; only the owning thread may.
    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    /// Replaces the count; only the owning thread may.
    pub fn set(&self, count: u64) {
        self.0.store(count, Ordering::Relaxed);
    }

    /// The count so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use mirror_common::record::RecordHeader;

    use super::*;

    #[test]
    fn ledger_balances_over_every_name() {
        let ledger = Ledger {
            seen: 511,
            filtered: 1,
            sampled_out: 2,
            rate_limited: 4,
            own: 8,
            ring_full: 16,
            copy_failed: 32,
            too_big: 64,
            send_failed: 128,
            sent: 256,
        };
        assert_eq!(ledger.unaccounted(), 0);
        assert_eq!(Ledger { sent: 257, ..ledger }.unaccounted(), -1);
        assert_eq!(Ledger { seen: 512, ..ledger }.unaccounted(), 1);
    }

    #[test]
    fn a_super_frame_is_sent_when_all_its_parts_are() {
        let header = RecordHeader::default();
        let last = Frame::whole(&header, &[]);
        let part = Frame { has_more: true, ..last };
        let counters = OutputCounters::default();
        let counts = || [counters.sent.get(), counters.send_failed.get(), counters.segments.get()];
        counters.wire_frame_sent(&last);
        counters.wire_frame_sent(&part);
        assert_eq!(counts(), [1, 0, 2]);
        counters.wire_frame_sent(&last);
        assert_eq!(counts(), [2, 0, 3]);
        counters.wire_frame_failed(&part);
        counters.wire_frame_sent(&last);
        assert_eq!(counts(), [2, 1, 4], "its first part was lost");
        counters.wire_frame_failed(&part);
        counters.give_up(3);
        counters.wire_frame_sent(&last);
        assert_eq!(counts(), [3, 4, 5], "the one in hand is among those given up");
        counters.wire_frame_too_big(&part);
        counters.wire_frame_sent(&last);
        assert_eq!(counters.too_big.get(), 1);
        counters.wire_frame_too_big(&part);
        counters.wire_frame_failed(&last);
        assert_eq!((counts(), counters.too_big.get()), ([3, 5, 6], 1), "failed is the worse of both");
    }

    #[test]
    fn a_super_frame_is_truncated_when_a_part_is() {
        let header = RecordHeader::default();
        let last = Frame::whole(&header, &[1; 4]);
        let part = Frame { has_more: true, wire_len: 5, ..last };
        let counters = OutputCounters::default();
        let counts = || [counters.sent.get(), counters.truncated.get()];
        [part, part, last].iter().for_each(|frame| counters.datagram_sent(frame, 8));
        assert_eq!(counts(), [1, 1]);
        counters.datagram_sent(&last, 8);
        assert_eq!((counts(), counters.datagrams.get(), counters.bytes.get()), ([2, 1], 4, 48));
        let total = OutputCounters::default();
        total.take_over(&counters);
        assert_eq!((total.sent.get(), total.bytes.get(), counters.sent.get()), (2, 48, 0));
    }

    #[test]
    fn errors_have_names() {
        let counters = OutputCounters::default();
        for errno in [libc::ECONNREFUSED, libc::ECONNREFUSED, libc::ENOBUFS, -1, 9999] {
            counters.error(errno);
        }
        let mut total = BTreeMap::new();
        counters.add_errors_to(&mut total);
        let names: Vec<_> = total.iter().map(|(name, count)| (name.as_str(), *count)).collect();
        assert_eq!(names, [("ECONNREFUSED", 2), ("ENOBUFS", 1), ("UnknownErrno", 2)]);
    }
}

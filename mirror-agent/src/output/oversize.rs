//! What becomes of a frame whose datagram is longer than the path to the sensor takes.

use std::{
    io,
    time::{Duration, Instant},
};

use arrayvec::ArrayVec;
use mirror_common::udp;

use super::stack::Stack;
use crate::{
    cli::Oversize,
    encap::{outer::Version, tunnel::Encap},
    ledger::OutputCounters,
    source::{BATCH, Frame},
};

/// How often the path's MTU is looked up: routes may have changed.
const PERIOD: Duration = Duration::from_secs(1);

/// Makes frames fit one sensor's path.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fit {
    oversize: Oversize,
    version: Version,
    encap: Encap,
    /// The largest packet that the path takes, as far as the kernel knows.
    mtu: usize,
    due: Instant,
}

impl Fit {
    pub(super) fn new(oversize: Oversize, version: Version, encap: Encap) -> Self {
        Self { oversize, version, encap, mtu: usize::MAX, due: Instant::now() }
    }

    /// Looks up the path's MTU where that is of use and due.
    pub(super) fn look_up(&mut self, raw: &mut Stack, now: Instant) {
        if self.oversize == Oversize::Fragment || (now < self.due && !raw.has_shorter_path()) {
            return;
        }
        self.due = now + PERIOD;
        raw.note_path();
        // With no route nothing fits or not: the socket's errors say so.
        if let Ok(mtu) = raw.path_mtu() {
            self.mtu = mtu;
        }
    }

    /// Lets the next look-up be made at once.
    pub(super) fn make_due(&mut self, now: Instant) {
        self.due = now;
    }

    /// The longest frame whose datagram goes in one packet, or, where those are fragmented, in one datagram.
    /// `mtu` is the outgoing interface's.
    pub(super) fn longest(&self, mtu: usize) -> usize {
        let room = match self.oversize {
            Oversize::Fragment => usize::MAX,
            Oversize::Truncate | Oversize::Drop => {
                let headers = self.version.header_len() + udp::HEADER_LEN + self.encap.header_len();
                self.mtu.min(mtu).saturating_sub(headers)
            }
        };
        room.min(self.encap.frame_max(self.version))
    }

    /// Has `send` send what is to be sent of `frames`, in order, none of it longer than `longest` bytes. What is
    /// left out is counted where it stood among the others, so that the parts of a super-frame stay together.
    ///
    /// # Errors
    ///
    /// Those of `send`. The frames of the other calls, and those that follow, are counted.
    pub(super) fn send(
        self,
        frames: &[Frame<'_>],
        longest: usize,
        counters: &OutputCounters,
        mut send: impl FnMut(&[Frame<'_>]) -> io::Result<()>,
    ) -> io::Result<()> {
        let fits = |frame: &Frame<'_>| frame.captured_len() <= longest;
        if frames.iter().all(fits) {
            return send(frames);
        }
        if self.oversize == Oversize::Truncate {
            let cut: ArrayVec<Frame<'_>, BATCH> = frames.iter().map(|frame| frame.cut_to(longest)).collect();
            return send(&cut);
        }
        let mut result = Ok(());
        for run in frames.chunk_by(|one, next| fits(one) == fits(next)) {
            match &result {
                Err(_) => run.iter().for_each(|frame| counters.wire_frame_failed(frame)),
                Ok(()) if run.iter().all(fits) => result = send(run),
                Ok(()) => run.iter().for_each(|frame| counters.wire_frame_too_big(frame)),
            }
        }
        result
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use mirror_common::record::RecordHeader;

    use super::*;

    fn fitted(oversize: Oversize, mtu: usize, lengths: &[usize]) -> (Vec<usize>, [u64; 2]) {
        let header = RecordHeader::default();
        let bytes = vec![0; 70_000];
        let frame = |length: &usize| Frame {
            wire_len: *length as u32,
            ..Frame::whole(&header, bytes.get(..*length).unwrap_or_default())
        };
        let frames: Vec<_> = lengths.iter().map(frame).collect();
        let counters = OutputCounters::default();
        let fit = Fit::new(oversize, Version::V4, Encap::Vxlan);
        let mut sent = Vec::new();
        let send = |run: &[Frame<'_>]| {
            run.iter().for_each(|frame| counters.datagram_sent(frame, 8));
            sent.extend(run.iter().map(Frame::captured_len));
            Ok(())
        };
        fit.send(&frames, fit.longest(mtu), &counters, send).unwrap();
        (sent, [counters.truncated.get(), counters.too_big.get()])
    }

    /// A frame that fits; two super-frames of which all but the last part is too long; one that is too long.
    #[test]
    fn super_frames_of_which_a_part_is_left_out_are_too_big_each() {
        let header = RecordHeader::default();
        let bytes = [0; 1514];
        let whole = |length: usize| Frame::whole(&header, &bytes[..length]);
        let part = Frame { has_more: true, ..whole(1514) };
        let frames = [whole(60), part, part, whole(100), part, whole(100), whole(1514), whole(61)];
        let fit = Fit::new(Oversize::Drop, Version::V4, Encap::Vxlan);
        for (fails_at, expected) in [(9, [2, 3, 0]), (0, [0, 0, 5]), (1, [1, 0, 4]), (2, [1, 1, 3])] {
            let counters = OutputCounters::default();
            let mut call = 0;
            let send = |run: &[Frame<'_>]| {
                call += 1;
                let fails = call > fails_at;
                run.iter().for_each(|frame| match fails {
                    true => counters.wire_frame_failed(frame),
                    false => counters.datagram_sent(frame, 8),
                });
                if fails { Err(io::Error::other("full")) } else { Ok(()) }
            };
            assert_eq!(fit.send(&frames, fit.longest(1500), &counters, send).is_ok(), fails_at == 9);
            let counts = [&counters.sent, &counters.too_big, &counters.send_failed].map(|count| count.get());
            assert_eq!(counts, expected, "call {fails_at} fails");
        }
    }

    #[test]
    fn frames_are_fitted_as_asked_for() {
        // IPv4, UDP and VXLAN have 36 bytes.
        let lengths = [1464, 1465, 60, 65_499, 65_500];
        assert_eq!(fitted(Oversize::Fragment, 1500, &lengths), (vec![1464, 1465, 60, 65_499], [0, 1]));
        assert_eq!(fitted(Oversize::Truncate, 1500, &lengths), (vec![1464, 1464, 60, 1464, 1464], [3, 0]));
        assert_eq!(fitted(Oversize::Drop, 1500, &lengths), (vec![1464, 60], [0, 3]));
        assert_eq!(
            fitted(Oversize::Truncate, 65_536, &lengths),
            (lengths[..4].iter().copied().chain([65_499]).collect(), [1, 0])
        );
    }
}

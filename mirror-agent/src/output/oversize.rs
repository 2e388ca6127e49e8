//! What becomes of a frame whose datagram is longer than the path to the sensor takes.

use std::time::{Duration, Instant};

use arrayvec::ArrayVec;

use super::raw_socket::RawSocket;
use crate::{
    cli::Oversize,
    encap::{outer::Version, vxlan::HEADERS_LEN},
    ledger::OutputCounters,
    source::{BATCH, Frame},
};

/// How often the path's MTU is looked up: routes may have changed.
const PERIOD: Duration = Duration::from_secs(1);

/// Makes frames fit one sensor's path.
#[derive(Debug)]
pub(super) struct Fit {
    oversize: Oversize,
    version: Version,
    /// The largest packet that the path takes, as far as the kernel knows.
    mtu: usize,
    due: Instant,
}

impl Fit {
    pub(super) fn new(oversize: Oversize, version: Version) -> Self {
        Self { oversize, version, mtu: usize::MAX, due: Instant::now() }
    }

    /// Looks up the path's MTU where that is of use and due.
    pub(super) fn look_up(&mut self, raw: &mut RawSocket, now: Instant) {
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

    /// The longest frame whose datagram goes in one packet, or, where those are fragmented, in one datagram.
    /// `mtu` is the outgoing interface's.
    pub(super) fn longest(&self, mtu: usize) -> usize {
        let room = match self.oversize {
            Oversize::Fragment => usize::MAX,
            Oversize::Truncate | Oversize::Drop => {
                self.mtu.min(mtu).saturating_sub(self.version.header_len() + HEADERS_LEN)
            }
        };
        room.min(self.version.frame_max())
    }

    /// Those of `frames` that are to be sent, none of them longer than `longest` bytes. The others are counted.
    pub(super) fn apply<'a>(
        &self,
        frames: &[Frame<'a>],
        longest: usize,
        counters: &OutputCounters,
    ) -> ArrayVec<Frame<'a>, BATCH> {
        let fits = |frame: &Frame<'a>| frame.captured_len() <= longest;
        frames
            .iter()
            .filter_map(|frame| match self.oversize {
                _ if fits(frame) => Some(*frame),
                Oversize::Truncate => Some(frame.cut_to(longest)),
                Oversize::Fragment | Oversize::Drop => {
                    counters.wire_frame_too_big(frame);
                    None
                }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
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
        let fit = Fit::new(oversize, Version::V4);
        let sent = fit.apply(&frames, fit.longest(mtu), &counters);
        sent.iter().for_each(|frame| counters.datagram_sent(frame));
        (sent.iter().map(Frame::captured_len).collect(), [counters.truncated.get(), counters.too_big.get()])
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

//! The step between a source and an output: hands on what was on the wire.

use std::io;

use arrayvec::ArrayVec;

use super::{Cut, HEAD_MAX};
use crate::{
    ledger::OutputCounters,
    source::{BATCH, Frame},
};

/// One thread's step.
#[derive(Debug)]
pub struct Stage {
    /// Room for the headers that are written anew.
    heads: Box<[[u8; HEAD_MAX]; BATCH]>,
    /// Bytes kept of each wire frame.
    snaplen: usize,
}

impl Stage {
    /// Keeps at most `snaplen` bytes of each wire frame.
    #[must_use]
    pub fn new(snaplen: usize) -> Self {
        Self { heads: Box::new([[0; HEAD_MAX]; BATCH]), snaplen }
    }

    /// Hands the wire frames of `frames` to `send`, in order, at most [`BATCH`] in a call. A super-frame's
    /// go in one call, if they are no more.
    ///
    /// # Errors
    ///
    /// That of `send`, which has counted the frames of its call. Those that follow are counted here as given up.
    pub fn pass_on(
        &mut self,
        frames: &[Frame<'_>],
        counters: &OutputCounters,
        mut send: impl FnMut(&[Frame<'_>]) -> io::Result<()>,
    ) -> io::Result<()> {
        if frames.iter().all(|frame| Cut::is_none(frame.header) && frame.captured_len() <= self.snaplen) {
            return send(frames);
        }
        // Frames that are over, or whose last part was handed over.
        let mut done = 0;
        let mut cut: Option<Cut<'_>> = None;
        while done < frames.len() {
            let mut heads = self.heads.iter_mut();
            let mut staged = ArrayVec::<Frame<'_>, BATCH>::new();
            while let Some(&frame) = frames.get(done) {
                if cut.is_none() {
                    cut = Cut::of(frame.header, frame.bytes);
                    let count = cut.as_ref().map_or(1, Cut::count);
                    if count > staged.remaining_capacity() && !staged.is_empty() {
                        break;
                    }
                }
                let wire_frame = match &mut cut {
                    None => frame,
                    Some(parts) => {
                        // There are as many heads as staged frames.
                        let Some(head) = heads.next() else { break };
                        let Some(piece) = parts.next(head) else {
                            // A cut has at least one piece, and the one before said that it was the last.
                            debug_assert!(false, "a cut of no pieces");
                            cut = None;
                            done += 1;
                            continue;
                        };
                        Frame {
                            wire_len: piece.length() as u32,
                            has_more: !piece.is_last,
                            head: &head[..piece.head_len],
                            bytes: &frame.bytes[piece.body],
                            ..frame
                        }
                    }
                };
                if !wire_frame.has_more {
                    cut = None;
                    done += 1;
                }
                staged.push(wire_frame.cut_to(self.snaplen));
                if staged.is_full() {
                    break;
                }
            }
            if let Err(error) = send(&staged) {
                counters.give_up((frames.len() - done) as u64);
                return Err(error);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use mirror_common::record::{RecordHeader, Segmentation};

    use super::*;

    const PAYLOAD: usize = 100;

    /// Ethernet, IPv4, TCP; `segments` segments of [`PAYLOAD`] bytes.
    fn super_frame(segments: usize) -> (RecordHeader, Vec<u8>) {
        let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
        let total = (40 + segments * PAYLOAD) as u16;
        bytes.extend([0x45, 0]);
        bytes.extend(total.to_be_bytes());
        bytes.extend([0, 1, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        bytes.extend([0, 80, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
        bytes.extend((0..segments * PAYLOAD).map(|at| (at / PAYLOAD) as u8));
        let header = RecordHeader {
            captured_len: bytes.len() as u32,
            original_len: bytes.len() as u32,
            segmentation: Segmentation::Tcp as u16,
            gso_size: PAYLOAD as u16,
            ..RecordHeader::default()
        };
        (header, bytes)
    }

    /// What is sent, by call: the last byte of each wire frame, and whether another part follows.
    fn calls(stage: &mut Stage, frames: &[Frame<'_>]) -> Vec<Vec<(u8, bool)>> {
        let counters = OutputCounters::default();
        let mut calls = Vec::new();
        stage
            .pass_on(frames, &counters, |sent| {
                calls.push(sent.iter().map(|frame| (*frame.bytes.last().unwrap(), frame.has_more)).collect());
                Ok(())
            })
            .unwrap();
        calls
    }

    #[test]
    fn a_super_frame_goes_in_one_call_where_it_fits() {
        let plain = RecordHeader { captured_len: 1, original_len: 1, ..RecordHeader::default() };
        let plain = Frame::whole(&plain, &[77]);
        let (header, bytes) = super_frame(40);
        let large = Frame::whole(&header, &bytes);
        let calls = calls(&mut Stage::new(usize::MAX), &[plain, large, large, plain]);
        let parts: Vec<_> = (0..40).map(|part| (part, part < 39)).collect();
        assert_eq!(calls, [[&[(77, false)], &parts[..]].concat(), [&parts[..], &[(77, false)]].concat()]);
    }

    #[test]
    fn a_super_frame_of_many_segments_goes_in_order() {
        let (header, bytes) = super_frame(200);
        let large = Frame::whole(&header, &bytes);
        let calls = calls(&mut Stage::new(usize::MAX), &[large, large]);
        assert!(calls.iter().all(|call| call.len() <= BATCH));
        let parts: Vec<_> = (0..200).map(|part| (part, part < 199)).collect();
        assert_eq!(calls.concat(), [parts.clone(), parts].concat());
    }

    #[test]
    fn each_wire_frame_is_cut_to_the_snaplen() {
        let (header, bytes) = super_frame(3);
        let counters = OutputCounters::default();
        for (snaplen, expected) in [(20, 20), (60, 60), (153, 153), (154, 154), (1000, 154)] {
            let mut lengths = Vec::new();
            let keep = |sent: &[Frame<'_>]| {
                lengths.extend(sent.iter().map(|frame| (frame.captured_len(), frame.wire_len)));
                Ok(())
            };
            Stage::new(snaplen).pass_on(&[Frame::whole(&header, &bytes)], &counters, keep).unwrap();
            assert_eq!(lengths, [(expected, 154); 3], "{snaplen}");
        }
    }

    #[test]
    fn frames_behind_an_error_are_given_up_once() {
        let (header, bytes) = super_frame(200);
        let large = Frame::whole(&header, &bytes);
        for fails_at in 0..7 {
            let counters = OutputCounters::default();
            let mut call = 0;
            // As an output does: what it was given is failed.
            let result = Stage::new(usize::MAX).pass_on(&[large; 2], &counters, |sent| {
                call += 1;
                if call <= fails_at {
                    sent.iter().for_each(|frame| counters.wire_frame_sent(frame));
                    return Ok(());
                }
                sent.iter().for_each(|frame| counters.wire_frame_failed(frame));
                Err(io::Error::other("full"))
            });
            assert_eq!(result.is_err(), call > fails_at);
            assert_eq!(counters.sent.get() + counters.send_failed.get(), 2, "call {fails_at}");
        }
    }
}

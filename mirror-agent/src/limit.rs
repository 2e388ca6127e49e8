//! `--limit`: the run ends after a number of frames, to the frame.

use std::{
    collections::HashMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use mirror_common::record::RecordHeader;

use crate::source::Frame;

/// What is left, shared by the sending threads.
///
/// Hooks go on seeing frames until they are detached. Those that come after the last one that counts are
/// no part of the run: they are noted here and taken out of what was seen.
#[derive(Debug)]
pub struct Limit {
    left: AtomicU64,
    beyond: Mutex<HashMap<(u32, u16), Beyond>>,
}

/// Frames after the last one that counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Beyond {
    /// How many.
    pub frames: u64,
    /// Their bytes on the wire.
    pub bytes: u64,
}

impl Limit {
    /// A run of `frames`.
    #[must_use]
    pub fn new(frames: u64) -> Self {
        Self { left: AtomicU64::new(frames), beyond: Mutex::default() }
    }

    /// How many of `wanted` frames may still be sent.
    pub fn take(&self, wanted: usize) -> usize {
        let take = |left: u64| Some(left.saturating_sub(wanted as u64));
        // `take` always returns a value, so both arms hold what was left before.
        let (Ok(left) | Err(left)) = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        usize::try_from(left).unwrap_or(usize::MAX).min(wanted)
    }

    /// Whether the run is over.
    pub fn is_reached(&self) -> bool {
        self.left.load(Ordering::Relaxed) == 0
    }

    /// Notes frames that come too late. Takes a lock where there are any: then the run is over.
    pub fn note_beyond(&self, frames: &[Frame<'_>]) {
        if frames.is_empty() {
            return;
        }
        let mut beyond = self.beyond.lock().unwrap_or_else(PoisonError::into_inner);
        for RecordHeader { ifindex, direction, original_len, .. } in frames.iter().map(|frame| *frame.header)
        {
            let entry = beyond.entry((ifindex, direction)).or_default();
            entry.frames += 1;
            entry.bytes += u64::from(original_len);
        }
    }

    /// Frames of these interfaces and this direction that came too late.
    pub fn beyond(&self, ifindexes: &[u32], direction: u16) -> Beyond {
        let beyond = self.beyond.lock().unwrap_or_else(PoisonError::into_inner);
        let each = ifindexes.iter().filter_map(|ifindex| beyond.get(&(*ifindex, direction)));
        each.fold(Beyond::default(), |sum, one| Beyond {
            frames: sum.frames + one.frames,
            bytes: sum.bytes + one.bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_no_more_than_is_left() {
        let limit = Limit::new(100);
        assert_eq!(limit.take(64), 64);
        assert!(!limit.is_reached());
        assert_eq!(limit.take(64), 36);
        assert!(limit.is_reached());
        assert_eq!(limit.take(64), 0);
    }

    #[test]
    fn notes_what_comes_too_late() {
        let limit = Limit::new(1);
        let header = RecordHeader {
            time_ns: 0,
            ifindex: 7,
            flow_hash: 0,
            captured_len: 60,
            original_len: 64,
            direction: 1,
            segmentation: 0,
            gso_size: 0,
            checksum: 0,
        };
        let frame = Frame::whole(&header, &[0; 60]);
        limit.note_beyond(&[frame, frame]);
        assert_eq!(limit.beyond(&[6, 7], 1), Beyond { frames: 2, bytes: 128 });
        assert_eq!(limit.beyond(&[7], 0), Beyond::default());
    }
}

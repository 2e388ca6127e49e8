//! Frames that were decoded and wait to be sent.

use mirror_common::record::RecordHeader;

use super::playback::Trouble;
use crate::source::capture::EthernetFrame;

/// Bytes of frames in a chunk, unless one frame alone is longer.
pub const BYTES: usize = 256 << 10;

/// Frames and troubles in a chunk.
pub const FRAMES: usize = 4096;

/// Frames of one file, one behind the other, in file order.
#[derive(Debug, Default)]
pub struct Chunk {
    /// Which file, in the order of the command line.
    pub file: usize,
    /// Whether these are the file's first frames in this pass.
    pub begins_file: bool,
    /// Whether these are the last frames of the last file.
    pub ends_pass: bool,
    /// Whether there will be no other chunk.
    pub is_last: bool,
    /// One for each frame. The times are nanoseconds since 1970.
    pub headers: Vec<RecordHeader>,
    /// The frames' bytes with nothing between them, `captured_len` each.
    pub bytes: Vec<u8>,
    /// What the filter refused, in file order.
    pub filtered: Vec<Refused>,
    /// A frame that the filter is looking at.
    pub scratch: Vec<u8>,
    /// What could not be played, in file order: before the frame with this index.
    pub troubles: Vec<(usize, Trouble)>,
    /// Bytes of the input that were read before this chunk, in all files and passes.
    pub read_from: u64,
    /// The same behind it.
    pub read_to: u64,
}

/// Frames that the filter refused, one behind the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// They come before the frame with this index.
    pub before: usize,
    /// How many.
    pub frames: u64,
    /// Their bytes on the wire.
    pub bytes: u64,
}

impl Chunk {
    /// Whether there is nothing in it that anybody has to learn.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.headers.is_empty() && self.troubles.is_empty() && self.filtered.is_empty()
    }

    /// Whether another frame of `len` bytes belongs into the next chunk.
    #[must_use]
    pub fn is_full_for(&self, len: usize) -> bool {
        self.headers.len() + self.troubles.len() + self.filtered.len() >= FRAMES
            || !self.headers.is_empty() && self.bytes.len() + len > BYTES
    }

    /// The frame in one piece.
    pub fn in_one_piece(&mut self, frame: &EthernetFrame<'_>) -> &[u8] {
        self.scratch.clear();
        self.scratch.extend_from_slice(&frame.prefix);
        self.scratch.extend_from_slice(frame.rest);
        &self.scratch
    }

    /// The filter refused a frame of so many bytes on the wire.
    pub fn filtered(&mut self, bytes: u32) {
        let (before, bytes) = (self.headers.len(), u64::from(bytes));
        match self.filtered.last_mut().filter(|last| last.before == before) {
            Some(last) => {
                last.frames += 1;
                last.bytes += bytes;
            }
            None => self.filtered.push(Refused { before, frames: 1, bytes }),
        }
    }

    /// Bytes of the input read before the frame with this index, were all frames alike.
    #[must_use]
    pub fn read_at(&self, frame: usize) -> u64 {
        let length = self.read_to.saturating_sub(self.read_from);
        let share = frame as f64 / self.headers.len().max(1) as f64;
        self.read_from + (length as f64 * share) as u64
    }

    /// Takes everything out and keeps the memory; that of an exceptionally long frame is given back.
    pub fn clear(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        let mut headers = std::mem::take(&mut self.headers);
        let (mut filtered, scratch) = (std::mem::take(&mut self.filtered), std::mem::take(&mut self.scratch));
        filtered.clear();
        bytes.clear();
        bytes.shrink_to(BYTES);
        headers.clear();
        *self = Self { headers, bytes, filtered, scratch, ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_takes_one_frame_of_any_length() {
        let mut chunk = Chunk::default();
        assert!(!chunk.is_full_for(BYTES + 1));
        chunk.headers.push(RecordHeader { captured_len: 10, ..RecordHeader::default() });
        chunk.bytes.extend_from_slice(&[0; 10]);
        assert!(!chunk.is_full_for(BYTES - 10));
        assert!(chunk.is_full_for(BYTES - 9));
    }

    #[test]
    fn progress_within_a_chunk_follows_its_frames() {
        let headers = vec![RecordHeader::default(); 4];
        let chunk = Chunk { headers, read_from: 1000, read_to: 2000, ..Chunk::default() };
        assert_eq!([0, 1, 4].map(|frame| chunk.read_at(frame)), [1000, 1250, 2000]);
        assert_eq!(Chunk::default().read_at(0), 0);
    }
}

//! The part of a capture that is in memory.

use std::ops::Range;

use super::{
    damage::Damage,
    input::{Compression, Input},
};

/// A buffer that moves over the capture. Records are read where they lie in it.
pub(super) struct Window {
    input: Input,
    /// Wholly initialised, so that it can be read into; its length is its capacity.
    buffer: Vec<u8>,
    /// What of `buffer` is still to be decoded.
    rest: Range<usize>,
    /// Position of `rest` in the capture.
    position: u64,
    /// Whether the input has no more.
    ended: bool,
    /// Bytes to read at once, if there are so many.
    read_len: usize,
}

impl Window {
    pub(super) fn new(input: Input, read_len: usize) -> Self {
        let read_len = read_len.max(1);
        Self { input, buffer: vec![0; read_len], rest: 0..0, position: 0, ended: false, read_len }
    }

    /// Bytes from the beginning of the capture to [`Self::bytes`].
    #[inline]
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// What is in memory and not decoded yet.
    #[inline]
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer[self.rest.clone()]
    }

    /// Whether the input is known to have no more than [`Self::bytes`].
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Bytes that the window has memory for.
    pub(super) fn capacity(&self) -> usize {
        self.buffer.capacity()
    }

    /// Brings the next `len` bytes into memory. `false` where the capture ends before.
    #[inline]
    pub(super) fn fill(&mut self, len: usize) -> Result<bool, Damage> {
        if self.rest.len() >= len {
            return Ok(true);
        }
        self.read(len)
    }

    #[cold]
    fn read(&mut self, len: usize) -> Result<bool, Damage> {
        while self.rest.len() < len {
            if self.ended {
                return Ok(false);
            }
            self.make_room(len);
            match self.input.read(&mut self.buffer[self.rest.end..]) {
                Ok(0) => self.ended = true,
                Ok(count) => self.rest.end += count,
                Err(reason) => {
                    // What is there is known not to be enough.
                    self.ended = true;
                    return Err(Damage { position: self.position + self.rest.len() as u64, reason });
                }
            }
        }
        Ok(true)
    }

    /// Makes room behind `rest`, which has fewer than `len` bytes.
    fn make_room(&mut self, len: usize) {
        if self.rest.start > 0 {
            // Less than a record, once for each read.
            self.buffer.copy_within(self.rest.clone(), 0);
            self.rest = 0..self.rest.len();
        }
        if self.rest.end == self.buffer.len() {
            // Doubled, and not set to `len`: that is what a header says, and there may be nothing behind it.
            let grown = (self.buffer.len() * 2).min(len.max(self.read_len));
            self.buffer.reserve_exact(grown - self.buffer.len());
            self.buffer.resize(grown, 0);
        }
    }

    /// Moves on by `len` bytes, which are in memory.
    #[inline]
    pub(super) fn advance(&mut self, len: usize) {
        self.rest.start += len;
        self.position += len as u64;
    }

    /// Moves on by `len` bytes, reading those that are not in memory. Returns how many the capture has not.
    pub(super) fn skip(&mut self, len: u64) -> Result<u64, Damage> {
        let mut left = len;
        while left > 0 && self.fill(1)? {
            let step = usize::try_from(left).map_or(self.rest.len(), |left| left.min(self.rest.len()));
            self.advance(step);
            left -= step as u64;
        }
        Ok(left)
    }

    /// Where `range` of [`Self::bytes`] lies, for [`Self::at`]: good until the next read.
    #[inline]
    pub(super) fn place(&self, range: Range<usize>) -> Range<usize> {
        self.rest.start + range.start..self.rest.start + range.end
    }

    /// The bytes at a [`Self::place`].
    #[inline]
    pub(super) fn at(&self, place: Range<usize>) -> &[u8] {
        self.buffer.get(place).unwrap_or_default()
    }

    /// Takes what is in memory, and all that follows, for compressed data.
    pub(super) fn decompress(&mut self, compression: Compression) -> Result<(), Damage> {
        let plain = std::mem::replace(&mut self.input, Input::plain(Box::new(std::io::empty())));
        self.input = plain
            .decompress(compression, &self.buffer[self.rest.clone()])
            .map_err(|reason| Damage { position: 0, reason })?;
        self.rest = 0..0;
        self.ended = false;
        Ok(())
    }
}

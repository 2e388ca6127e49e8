//! Where frames come from.

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
    /// What is known of it.
    pub header: &'a RecordHeader,
    /// Its captured bytes, from the Ethernet header on.
    pub bytes: &'a [u8],
}

impl Frame<'_> {
    /// Whether it had more bytes on the wire than there are.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.header.captured_len < self.header.original_len
    }
}

/// Frames in their order. They stay where they are until [`Source::release`] gives their place back.
#[derive(Debug)]
pub struct Batch<'a> {
    /// The frames; there may be none, where something else is to be released.
    pub frames: ArrayVec<Frame<'a>, BATCH>,
    /// Position behind them, for [`Source::release`].
    pub end: usize,
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

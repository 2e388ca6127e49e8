//! A frame as a hook is shown it.

use mirror_common::bytes::Bytes;

/// What a frame is copied into a ring from: a socket buffer, or what an XDP program gets.
pub trait Packet: Bytes {
    /// Copies `len` bytes at `offset` to `to`. `false` where the frame is shorter.
    ///
    /// # Safety
    ///
    /// `to` has room for `len` bytes. The verifier checks that too, and wants to see `len` above 0.
    unsafe fn copy(self, offset: u32, to: *mut u8, len: u32) -> bool;
}

//! Reading a frame's bytes, wherever they lie.

/// The bytes of a frame: a slice in user space, a socket buffer in the kernel, where part of a frame
/// may lie outside the linear area and has to be copied out by a helper.
pub trait Bytes {
    /// The `N` bytes at `offset` from the frame's first byte, or `None` where the frame is shorter.
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]>;
}

impl Bytes for [u8] {
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.get(offset as usize..)?.first_chunk().copied()
    }
}

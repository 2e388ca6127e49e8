//! Reading a frame's bytes, wherever they lie.

/// The bytes of a frame: a slice in user space, a socket buffer in the kernel, where part of a frame
/// may lie outside the linear area and has to be copied out by a helper.
///
/// Numbers come in host order. They are read as what they are rather than byte by byte, because the
/// kernel's verifier follows every single load.
pub trait Bytes: Copy {
    /// The `N` 32-bit numbers at `offset` from the frame's first byte, or `None` where the frame is
    /// shorter.
    fn words<const N: usize>(self, offset: u32) -> Option<[u32; N]>;

    /// The 16-bit number at `offset`.
    fn half(self, offset: u32) -> Option<u16>;

    /// The byte at `offset`.
    fn byte(self, offset: u32) -> Option<u8>;
}

impl Bytes for &[u8] {
    fn words<const N: usize>(self, offset: u32) -> Option<[u32; N]> {
        let bytes = self.get(offset as usize..)?;
        let (words, _) = bytes.as_chunks();
        Some(words.first_chunk::<N>()?.map(u32::from_be_bytes))
    }

    fn half(self, offset: u32) -> Option<u16> {
        self.get(offset as usize..)?.first_chunk().copied().map(u16::from_be_bytes)
    }

    fn byte(self, offset: u32) -> Option<u8> {
        self.get(offset as usize).copied()
    }
}

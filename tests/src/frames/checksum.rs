//! The Internet checksum, RFC 1071.

/// A running sum. Feed it pieces of even length, but for the last.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sum(u64);

impl Sum {
    /// With `bytes` added.
    #[must_use]
    pub fn with(mut self, bytes: &[u8]) -> Self {
        // Four bytes at a time: carries gather in the upper half and are folded in at the end.
        let (words, rest) = bytes.as_chunks::<4>();
        for word in words {
            self.0 += u64::from(u32::from_be_bytes(*word));
        }
        let mut last = [0; 4];
        last[..rest.len()].copy_from_slice(rest);
        self.0 += u64::from(u32::from_be_bytes(last));
        self
    }

    /// The checksum over everything added.
    #[must_use]
    pub fn finish(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }
}

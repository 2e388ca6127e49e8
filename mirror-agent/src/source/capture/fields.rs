//! Numbers in records and blocks, in the byte order of their writer.
//!
//! pcap-file's own parsers are generic over a type of another crate for this, and would have to be compiled
//! and chosen between once for each order.

use pcap_file::Endianness;

/// The first `N` 32-bit numbers of `bytes`, or `None` where there are fewer.
#[inline]
pub(super) fn words<const N: usize>(bytes: &[u8], order: Endianness) -> Option<[u32; N]> {
    let (words, _) = bytes.as_chunks();
    let words = words.first_chunk::<N>()?;
    Some(match order {
        Endianness::Big => words.map(u32::from_be_bytes),
        Endianness::Little => words.map(u32::from_le_bytes),
    })
}

/// The first `N` 16-bit numbers of `bytes`, or `None` where there are fewer.
#[inline]
pub(super) fn halves<const N: usize>(bytes: &[u8], order: Endianness) -> Option<[u16; N]> {
    let (halves, _) = bytes.as_chunks();
    let halves = halves.first_chunk::<N>()?;
    Some(match order {
        Endianness::Big => halves.map(u16::from_be_bytes),
        Endianness::Little => halves.map(u16::from_le_bytes),
    })
}

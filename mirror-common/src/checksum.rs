//! The Internet checksum, RFC 1071: of an IPv4 header, and of a UDP datagram over IPv6.

use crate::headers::Headers;

/// A one's complement sum under way. It knows no byte order (RFC 1071 section 2 (B)), so words are added as
/// they lie in memory, and turned once at the end.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

/// 32-bit words that are added side by side, which the compiler makes vector instructions of.
const LANES: usize = 8;

impl Sum {
    /// Nothing added yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(0)
    }

    /// With `bytes` added, which begin at an even offset of what is summed; where their number is odd, nothing
    /// follows. At most 64 GiB can be added to one sum.
    #[must_use]
    pub fn with(self, bytes: &[u8]) -> Self {
        let (blocks, rest) = bytes.as_chunks::<{ 4 * LANES }>();
        let mut lanes = [0_u64; LANES];
        for block in blocks {
            let (words, _) = block.as_chunks();
            for (lane, word) in lanes.iter_mut().zip(words) {
                *lane += u64::from(u32::from_ne_bytes(*word));
            }
        }
        let mut sum = self.0;
        for lane in lanes {
            sum += fold_once(lane);
        }
        let (halves, odd) = rest.as_chunks();
        for half in halves {
            sum += u64::from(u16::from_ne_bytes(*half));
        }
        if let [last] = odd {
            sum += u64::from(u16::from_ne_bytes([*last, 0]));
        }
        Self(sum)
    }

    /// With a number in host order added.
    #[must_use]
    pub const fn with_number(self, number: u16) -> Self {
        Self(self.0 + number.to_be() as u64)
    }

    /// With what another sum has added, which began at an even offset too.
    #[must_use]
    pub const fn with_sum(self, other: Self) -> Self {
        Self(fold_once(self.0) + fold_once(other.0))
    }

    /// The checksum: the complement of the sum, in host order. Over bytes with a right checksum in them it
    /// is 0.
    #[must_use]
    pub const fn checksum(self) -> u16 {
        let sum = fold_once(fold_once(self.0));
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        !u16::from_be(sum as u16)
    }
}

/// The sum of a TCP or UDP packet's pseudo-header (RFC 9293 section 3.1, RFC 8200 section 8.1) in host order, not
/// complemented: what the stack leaves in the checksum's field for a card to complete. `len` is that of the transport
/// header and what follows. Never 0.
#[inline(always)]
#[must_use]
pub const fn pseudo_header(headers: &Headers, len: u32) -> u16 {
    const fn halves(word: u32) -> u64 {
        (word >> 16) as u64 + (word & 0xffff) as u64
    }
    let (a, b) = (&headers.source, &headers.destination);
    // What maps an IPv4 address into IPv6 adds 65,535, which is to add nothing.
    let sum = halves(a[0]) + halves(a[1]) + halves(a[2]) + halves(a[3]);
    let sum = sum + halves(b[0]) + halves(b[1]) + halves(b[2]) + halves(b[3]);
    let sum = sum + halves(len) + headers.protocol as u64;
    // Below 2^21, so that two carries are all.
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// A sum of the same value (modulo 65,535) below 2^33.
const fn fold_once(sum: u64) -> u64 {
    (sum & 0xffff_ffff) + (sum >> 32)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    /// As RFC 1071 section 4.1 writes it, over numbers in network order.
    fn naive(bytes: &[u8]) -> u16 {
        let mut sum: u32 = bytes
            .chunks(2)
            .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)))
            .fold(0, |sum, word| {
                let sum = sum + word;
                (sum & 0xffff) + (sum >> 16)
            });
        sum = (sum & 0xffff) + (sum >> 16);
        !(sum as u16)
    }

    #[test]
    fn example_of_rfc_1071() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::new().with(&bytes).checksum(), !0xddf2, "section 3");
    }

    #[test]
    fn pseudo_headers_of_both_versions() {
        // 10.0.0.1 to 255.255.0.2, TCP, 20 bytes.
        let source = [0, 0, 0xffff, 0x0a00_0001];
        let headers =
            Headers { source, destination: [0, 0, 0xffff, 0xffff_0002], protocol: 6, ..Headers::NONE };
        let bytes = [10, 0, 0, 1, 255, 255, 0, 2, 0, 6, 0, 20];
        assert_eq!(pseudo_header(&headers, 20), !naive(&bytes));
        // fe80::ffff:1 to ffff:..:ffff, UDP, 70,000 bytes.
        let source = [0xfe80_0000, 0, 0, 0xffff_0001];
        let headers = Headers { source, destination: [u32::MAX; 4], protocol: 17, ..Headers::NONE };
        let mut bytes: Vec<u8> = source.iter().flat_map(|word| word.to_be_bytes()).collect();
        bytes.extend([0xff; 16]);
        bytes.extend(70_000_u32.to_be_bytes());
        bytes.extend([0, 0, 0, 17]);
        assert_eq!(pseudo_header(&headers, 70_000), !naive(&bytes));
    }

    #[test]
    fn extremes() {
        assert_eq!(Sum::new().checksum(), 0xffff);
        assert_eq!(Sum::new().with(&[0xff; 65_535]).checksum(), naive(&[0xff; 65_535]));
    }

    proptest! {
        #[test]
        fn same_as_the_naive_sum(bytes: Vec<u8>, cut: prop::sample::Index, number: u16) {
            prop_assert_eq!(Sum::new().with(&bytes).checksum(), naive(&bytes));
            let cut = cut.index(bytes.len() + 1) & !1;
            let (head, tail) = bytes.split_at(cut);
            prop_assert_eq!(Sum::new().with(head).with(tail).checksum(), naive(&bytes), "in two pieces");
            let both = Sum::new().with(head).with_sum(Sum::new().with(tail));
            prop_assert_eq!(both.checksum(), naive(&bytes), "as two sums");
            let with_number: Vec<u8> = number.to_be_bytes().into_iter().chain(bytes.iter().copied()).collect();
            prop_assert_eq!(Sum::new().with_number(number).with(&bytes).checksum(), naive(&with_number));
        }
    }
}

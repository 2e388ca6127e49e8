//! The cyclic redundancy check of SCTP: CRC-32C (RFC 9260 appendix A).

/// For each byte, what it does to the lowest eight bits.
const TABLE: [u32; 256] = {
    /// Castagnoli's polynomial, lowest bit first.
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut value = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            value = value >> 1 ^ if value & 1 == 0 { 0 } else { POLYNOMIAL };
            bit += 1;
        }
        table[byte] = value;
        byte += 1;
    }
    table
};

/// The check of all `pieces`, one after the other.
pub fn of(pieces: &[&[u8]]) -> u32 {
    let bytes = pieces.iter().copied().flatten();
    !bytes.fold(u32::MAX, |value, &byte| value >> 8 ^ TABLE[usize::from(value as u8 ^ byte)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_checks() {
        assert_eq!(of(&[b"123456789"]), 0xe306_9283, "the check value of the CRC catalogue");
        assert_eq!(of(&[b"1234", b"", b"56789"]), 0xe306_9283, "in pieces");
        assert_eq!(of(&[&[0; 32]]), 0x8a91_36aa, "RFC 3720 appendix B.4");
        assert_eq!(of(&[]), 0);
    }
}

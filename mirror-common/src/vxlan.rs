//! The VXLAN header, RFC 7348 section 5.
//!
//! ```text
//! |R|R|R|R|I|R|R|R|            Reserved (24 bits)               |
//! |      VXLAN Network Identifier (VNI, 24 bits)  |   Reserved  |
//! ```

/// Bytes of a VXLAN header.
pub const HEADER_LEN: usize = 8;

/// UDP destination port that IANA assigned to VXLAN.
pub const PORT: u16 = 4789;

/// Largest network identifier: 24 bits.
pub const VNI_MAX: u32 = 0x00ff_ffff;

/// The I flag: the VNI field is valid. RFC 7348: must be set, all other flags are ignored on receipt.
const FLAG_VNI_VALID: u8 = 0x08;

/// The header for `vni`, in wire order. Bits of `vni` above [`VNI_MAX`] are not sent.
#[must_use]
pub const fn header(vni: u32) -> [u8; HEADER_LEN] {
    let [_, high, middle, low] = vni.to_be_bytes();
    [FLAG_VNI_VALID, 0, 0, 0, high, middle, low, 0]
}

/// Splits a UDP payload into its VNI and the Ethernet frame inside.
///
/// `None` where the payload is shorter than the header or its I flag is not set.
#[must_use]
pub fn decapsulate(payload: &[u8]) -> Option<(u32, &[u8])> {
    let (&[flags, _, _, _, high, middle, low, _], frame) = payload.split_first_chunk()?;
    if flags & FLAG_VNI_VALID == 0 {
        return None;
    }
    Some((u32::from_be_bytes([0, high, middle, low]), frame))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_is_as_rfc_7348_draws_it() {
        assert_eq!(header(0x12_3456), [0x08, 0, 0, 0, 0x12, 0x34, 0x56, 0]);
    }

    #[test]
    fn decapsulate_takes_off_what_header_put_on() {
        let mut payload = [0; HEADER_LEN + 5];
        payload[..HEADER_LEN].copy_from_slice(&header(VNI_MAX));
        payload[HEADER_LEN..].copy_from_slice(b"frame");
        assert_eq!(decapsulate(&payload), Some((VNI_MAX, &b"frame"[..])));
        payload[0] = 0;
        assert_eq!(decapsulate(&payload), None, "I flag not set");
        assert_eq!(decapsulate(&header(1)[..7]), None, "cut header");
        assert_eq!(decapsulate(&header(1)), Some((1, &[][..])), "empty frame");
    }
}

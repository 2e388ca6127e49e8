//! Fills in the checksum that the stack left to the card (`CHECKSUM_PARTIAL`).
//!
//! As the kernel's `skb_checksum_help` and `skb_crc32c_csum_help` do it for a card that cannot: the field
//! holds the pseudo-header's sum, so all from the transport header on is added up, this field included. Nothing
//! else is looked at, so a checksum that is to be wrong stays wrong.

use std::ops::Range;

use mirror_common::{checksum::Sum, ip, record::ChecksumPlace};

use super::{
    HEAD_MAX, Piece, crc32c,
    layers::{self, Goal},
    patch,
};

/// Offset of the checksum in an SCTP header (RFC 9260 section 3.1).
const SCTP_CHECKSUM: u16 = 8;
/// Bytes of it.
const CRC_LEN: usize = 4;

/// A checksum that is missing.
#[derive(Clone, Debug)]
pub struct Completion {
    summed: Range<usize>,
    /// Offset of the field.
    field: usize,
    is_crc: bool,
    is_done: bool,
}

impl Completion {
    /// `None` where the place is not in the frame's headers.
    pub fn of(frame: &[u8], place: ChecksumPlace) -> Option<Self> {
        let start = usize::from(place.start);
        let field = start + usize::from(place.field);
        // An odd place would be no header's.
        if start % 2 != 0 || field + 2 > frame.len() || field + CRC_LEN > HEAD_MAX {
            return None;
        }
        let layers = layers::find(frame, Goal { protocol: None, at: Some(start) });
        let is_sctp =
            place.field == SCTP_CHECKSUM && layers.as_ref().is_some_and(|layers| layers.protocol == ip::SCTP);
        // Bytes behind the packet are padding. Where there is no packet, the kernel would sum up all.
        let end = layers.map(|layers| layers.end).filter(|&end| end >= field + 2).unwrap_or(frame.len());
        if is_sctp && end < field + CRC_LEN {
            return None;
        }
        Some(Self { summed: start..end, field, is_crc: is_sctp, is_done: false })
    }

    /// 1, and 0 once it is done.
    pub fn left(&self) -> usize {
        usize::from(!self.is_done)
    }

    /// See [`super::Cut::next`].
    pub fn next(&mut self, frame: &[u8], head: &mut [u8; HEAD_MAX]) -> Option<Piece> {
        if self.is_done {
            return None;
        }
        self.is_done = true;
        let field = self.field;
        let head_len = field + if self.is_crc { CRC_LEN } else { 2 };
        head[..head_len].copy_from_slice(&frame[..head_len]);
        if self.is_crc {
            let (before, after) = (&frame[self.summed.start..field], &frame[head_len..self.summed.end]);
            // Computed over a field of zeros, and sent with its lowest byte first (RFC 9260 appendix A).
            let checksum = crc32c::of(&[before, &[0; CRC_LEN], after]);
            head[field..head_len].copy_from_slice(&checksum.to_le_bytes());
        } else {
            // The kernel sends all ones for 0 with every protocol; to all but UDP they are the same.
            let checksum = patch::not_zero(Sum::new().with(&frame[self.summed.clone()]).checksum());
            head[field..head_len].copy_from_slice(&checksum.to_be_bytes());
        }
        Some(Piece { head_len, body: head_len..frame.len(), is_last: true })
    }
}

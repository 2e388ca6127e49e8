//! TCP segments, and UDP datagrams, out of a super-frame of them.
//!
//! As the kernel's `tcp_gso_segment` and `__udp_gso_segment` do it for a card that cannot. IPv4
//! identifications grow by one with each segment, with or without "don't fragment", as Linux does it
//! (`inet_gso_segment`), except where the kernel says that the segments it merged had one in common.

use mirror_common::{
    checksum::Sum,
    ip,
    record::{ChecksumPlace, Segmentation},
    udp,
};

use super::{
    HEAD_MAX, Piece,
    layers::{self, Goal, Layers, TCP_LEN},
    patch::{self, Wire},
};

/// Offset of the sequence number in a TCP header (RFC 9293 section 3.1).
const SEQUENCE: usize = 4;
/// Offset of the flags.
const FLAGS: usize = 13;
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// Offset of the checksum in a TCP header.
const TCP_CHECKSUM: usize = 16;
/// Offset of the checksum in a UDP header.
const UDP_CHECKSUM: usize = 6;

/// The segments of a super-frame.
#[derive(Clone, Debug)]
pub struct Segments {
    layers: Layers,
    /// Bytes of all headers.
    head_len: usize,
    /// Bytes of payload in each segment but the last.
    size: usize,
    /// Segments that are done, and all.
    done: usize,
    count: usize,
    /// The pseudo-header, but for the length; `None` where the segments have no checksum.
    pseudo: Option<Sum>,
    /// Whether something has a checksum over the payload.
    sums_body: bool,
    keeps_id: bool,
}

impl Segments {
    /// `None` where the frame is not understood.
    pub fn of(frame: &[u8], kind: Segmentation, size: usize, place: Option<ChecksumPlace>) -> Option<Self> {
        let protocol = if kind == Segmentation::Udp { ip::UDP } else { ip::TCP };
        let goal = Goal { protocol: Some(protocol), at: place.map(|place| usize::from(place.start)) };
        let layers = layers::find(frame, goal)?;
        let innermost = *layers.list.last()?;
        let header = frame.get(layers.at..)?;
        let (header_len, field) = if protocol == ip::UDP {
            (udp::HEADER_LEN, UDP_CHECKSUM)
        } else {
            let header_len = usize::from(*header.get(12)? >> 4) * 4;
            if header_len < TCP_LEN {
                return None;
            }
            (header_len, TCP_CHECKSUM)
        };
        let head_len = layers.at + header_len;
        let payload = frame.len().checked_sub(head_len)?;
        let longest = head_len + payload.min(size) - layers.list.first()?.at();
        if head_len > HEAD_MAX || longest > usize::from(u16::MAX) || size == 0 {
            return None;
        }
        let checksum = patch::half(header, field);
        let pseudo = match place {
            // The field has the pseudo-header's sum for the super-frame, with the address that counts.
            Some(_) if layers.is_routed => {
                Some(Sum::new().with_number(checksum).with_number(!(header.len() as u16)))
            }
            None if layers.is_routed && checksum != 0 => return None,
            None if protocol == ip::UDP && checksum == 0 => None,
            _ => Some(patch::pseudo(frame, innermost, protocol)),
        };
        Some(Self {
            head_len,
            size,
            done: 0,
            count: payload.div_ceil(size).max(1),
            sums_body: pseudo.is_some() || patch::needs_body(frame, &layers.list),
            pseudo,
            keeps_id: kind == Segmentation::TcpFixedId,
            layers,
        })
    }

    /// Segments that are still to come.
    pub fn left(&self) -> usize {
        self.count - self.done
    }

    /// See [`super::Cut::next`].
    pub fn next(&mut self, frame: &[u8], head: &mut [u8; HEAD_MAX]) -> Option<Piece> {
        if self.done == self.count {
            return None;
        }
        let number = self.done;
        self.done += 1;
        let is_last = self.done == self.count;
        let start = self.head_len + number * self.size;
        let body = start..if is_last { frame.len() } else { start + self.size };

        let head = &mut head[..self.head_len];
        head.copy_from_slice(&frame[..self.head_len]);
        let sum = if self.sums_body { Sum::new().with(&frame[body.clone()]) } else { Sum::new() };
        let mut wire = Wire { head, body_len: body.len(), body: sum, number };
        if self.layers.protocol == ip::UDP {
            self.udp(&mut wire);
        } else {
            self.tcp(&mut wire, is_last);
        }
        wire.fix(&self.layers.list, self.keeps_id);
        Some(Piece { head_len: self.head_len, body, is_last })
    }

    fn tcp(&self, wire: &mut Wire<'_>, is_last: bool) {
        let at = self.layers.at;
        if let Some(bytes) = wire.head[at + SEQUENCE..].first_chunk_mut() {
            // Sequence numbers wrap (RFC 9293 section 3.4).
            let ahead = (wire.number * self.size) as u32;
            *bytes = u32::from_be_bytes(*bytes).wrapping_add(ahead).to_be_bytes();
        }
        let flags = &mut wire.head[at + FLAGS];
        if !is_last {
            *flags &= !(FIN | PSH);
        }
        if wire.number > 0 {
            *flags &= !CWR;
        }
        if let Some(checksum) = self.checksum(wire, TCP_CHECKSUM) {
            wire.set(at + TCP_CHECKSUM, checksum);
        }
    }

    fn udp(&self, wire: &mut Wire<'_>) {
        let at = self.layers.at;
        wire.set(at + 4, wire.len_from(at));
        if let Some(checksum) = self.checksum(wire, UDP_CHECKSUM) {
            wire.set(at + UDP_CHECKSUM, patch::not_zero(checksum));
        }
    }

    /// Of the transport header, whose field is at `field`.
    fn checksum(&self, wire: &mut Wire<'_>, field: usize) -> Option<u16> {
        let at = self.layers.at;
        let pseudo = self.pseudo?;
        wire.set(at + field, 0);
        Some(pseudo.with_number(wire.len_from(at)).with_sum(wire.sum_from(at)).checksum())
    }
}

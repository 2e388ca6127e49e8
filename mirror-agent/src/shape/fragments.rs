//! IP fragments out of a datagram that the stack left uncut for the card ("UFO").
//!
//! As the kernel's `udp4_ufo_fragment` and `udp6_ufo_fragment` do it. Today's kernels send none of these
//! themselves, but pass on those of virtual machines.

use mirror_common::{
    checksum::Sum,
    ip,
    record::{ChecksumPlace, RecordHeader},
    udp,
};

use super::{
    HEAD_MAX, Piece,
    layers::{self, Goal, Layer, Layers},
    patch::{self, Wire},
};

/// The fragments of a datagram.
#[derive(Clone, Debug)]
pub struct Fragments {
    layers: Layers,
    /// Bytes of the datagram in each fragment but the last: a multiple of 8, in which offsets count.
    size: usize,
    /// Fragments that are done, and all.
    done: usize,
    count: usize,
    /// Of the datagram, completed.
    checksum: u16,
    /// Identification of an IPv6 datagram.
    id: u32,
    sums_body: bool,
}

impl Fragments {
    /// `None` where the frame is not understood, or short enough to go as it is.
    pub fn of(header: &RecordHeader, frame: &[u8], place: Option<ChecksumPlace>) -> Option<Self> {
        let goal = Goal { protocol: Some(ip::UDP), at: place.map(|place| usize::from(place.start)) };
        let layers = layers::find(frame, goal)?;
        let datagram = frame.get(layers.at..)?;
        let size = usize::from(header.gso_size) & !7;
        let first = layers.list.first()?.at();
        let fragment_len = match *layers.list.last()? {
            Layer::V4 { .. } => 0,
            Layer::V6 { .. } => ip::FRAGMENT_LEN,
            Layer::Udp { .. } | Layer::Gre { .. } => return None,
        };
        let is_understood = size > 0
            && datagram.len() > size
            && layers.at + fragment_len + udp::HEADER_LEN <= HEAD_MAX
            && frame.len() + fragment_len - first <= usize::from(u16::MAX)
            && (fragment_len == 0 || !layers.is_routed && layers.fragment_at == layers.at);
        if !is_understood {
            return None;
        }
        let checksum = checksum(frame, *layers.list.last()?, layers.at);
        Some(Self {
            size,
            done: 0,
            count: datagram.len().div_ceil(size),
            checksum,
            id: id(header, checksum),
            sums_body: patch::needs_body(frame, &layers.list),
            layers,
        })
    }

    /// Fragments that are still to come.
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
        let udp = self.layers.at;
        let offset = number * self.size;
        let innermost = *self.layers.list.last()?;

        head[..udp].copy_from_slice(&frame[..udp]);
        let mut head_len = udp;
        // Offsets count in multiples of 8; all are less than 65,536.
        let units = (offset / 8) as u16;
        if let Layer::V6 { .. } = innermost {
            let next = head[self.layers.next_header];
            head[self.layers.next_header] = ip::FRAGMENT;
            let place = units << 3 | if is_last { 0 } else { ip::MORE_V6 };
            let fragment = &mut head[udp..udp + ip::FRAGMENT_LEN];
            fragment[..2].copy_from_slice(&[next, 0]);
            fragment[2..4].copy_from_slice(&place.to_be_bytes());
            fragment[4..].copy_from_slice(&self.id.to_be_bytes());
            head_len += ip::FRAGMENT_LEN;
        } else {
            let place = units | if is_last { 0 } else { ip::MORE_V4 };
            let at = innermost.at() + 6;
            head[at..at + 2].copy_from_slice(&place.to_be_bytes());
        }
        let mut start = udp + offset;
        let end = if is_last { frame.len() } else { start + self.size };
        if number == 0 {
            head[head_len..head_len + udp::HEADER_LEN].copy_from_slice(&frame[udp..udp + udp::HEADER_LEN]);
            head[head_len + 6..head_len + udp::HEADER_LEN].copy_from_slice(&self.checksum.to_be_bytes());
            head_len += udp::HEADER_LEN;
            start += udp::HEADER_LEN;
        }
        let body = start..end;
        let sum = if self.sums_body { Sum::new().with(&frame[body.clone()]) } else { Sum::new() };
        let mut wire = Wire { head: &mut head[..head_len], body_len: body.len(), body: sum, number };
        wire.fix(&self.layers.list, true);
        Some(Piece { head_len, body, is_last })
    }
}

/// Of the whole datagram at `udp`.
fn checksum(frame: &[u8], ip: Layer, udp: usize) -> u16 {
    let length = (frame.len() - udp) as u16;
    let (before, after) = (&frame[udp..udp + 6], &frame[udp + udp::HEADER_LEN..]);
    let sum = patch::pseudo(frame, ip, ip::UDP).with_number(length).with(before).with(after);
    patch::not_zero(sum.checksum())
}

/// A number for the fragments of an IPv6 datagram. The kernel draws a random one once the frame has passed the
/// hook; here it has to be the same each time, and most often another for the next datagram: its payload decides.
fn id(header: &RecordHeader, checksum: u16) -> u32 {
    // Fibonacci hashing: 2^64 divided by the golden ratio spreads each input's bits.
    let spread = |hash: u64, number: u64| (hash ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    let number = [header.time_ns, u64::from(header.flow_hash), u64::from(header.original_len)]
        .into_iter()
        .fold(u64::from(checksum), spread);
    number as u32
}

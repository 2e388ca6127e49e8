//! Makes super-frames, layer by layer from the inside out, as the stack does, and takes wire frames apart
//! again with sums as RFC 1071 section 4.1 writes them.
#![allow(dead_code, reason = "not every test uses everything")]

pub mod check;
pub mod random;

use mirror_agent::shape::{Cut, HEAD_MAX};
use mirror_common::record::{ChecksumPlace, RecordHeader, Segmentation};

pub const DESTINATION: [u8; 6] = [2, 0, 0, 0x5e, 0x20, 2];
pub const SOURCE: [u8; 6] = [2, 0, 0, 0x5e, 0x20, 1];
pub const V4: [u8; 8] = [10, 20, 0, 1, 10, 20, 0, 2];
pub const V6: [u8; 32] = {
    let mut addresses = [0; 32];
    (addresses[0], addresses[1], addresses[15]) = (0xfd, 0x20, 1);
    (addresses[16], addresses[17], addresses[31]) = (0xfd, 0x20, 2);
    addresses
};

pub const FIN: u8 = 1;
pub const PSH: u8 = 8;
pub const ACK: u8 = 0x10;
pub const ECE: u8 = 0x40;
pub const CWR: u8 = 0x80;

/// Layers from some point on, and how much of their end is from the checksum's place on.
#[derive(Clone, Debug)]
pub struct Stack {
    pub bytes: Vec<u8>,
    /// Bytes from the transport header to the end, where its checksum is left to the card.
    from_start: usize,
    /// Offset of the field in the transport header.
    field: u16,
}

/// One's complement sum as a folded number in host order.
pub fn naive(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

pub fn payload(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index * 7 + index / 251) as u8).collect()
}

pub fn tcp(sequence: u32, flags: u8, options: &[u8], payload: &[u8]) -> Stack {
    assert_eq!(options.len() % 4, 0);
    let mut bytes = vec![0x9c, 0x40, 0x01, 0xbb];
    bytes.extend(sequence.to_be_bytes());
    bytes.extend([1, 2, 3, 4, (((20 + options.len()) / 4) << 4) as u8, flags, 0xff, 0xf0, 0, 0, 0x12, 0x34]);
    bytes.extend(options);
    bytes.extend(payload);
    Stack { from_start: bytes.len(), bytes, field: 16 }
}

/// With a checksum that is left to the card.
pub fn udp(payload: &[u8]) -> Stack {
    let mut stack = udp_around(&Stack::plain(payload), 7000, 1);
    (stack.from_start, stack.field) = (stack.bytes.len(), 6);
    stack
}

/// Around a tunnel, with anything as its checksum.
pub fn udp_around(inner: &Stack, port: u16, checksum: u16) -> Stack {
    let length = (8 + inner.bytes.len()) as u16;
    inner.behind(&[49_200, port, length, checksum].map(u16::to_be_bytes).concat())
}

impl Stack {
    /// Something that no checksum is left in.
    pub fn plain(bytes: &[u8]) -> Self {
        Self { bytes: bytes.to_vec(), from_start: 0, field: 0 }
    }

    pub fn behind(&self, header: &[u8]) -> Self {
        Self { bytes: [header, &self.bytes].concat(), ..*self }
    }

    pub fn ethernet(&self, ethertype: u16) -> Self {
        self.tagged(&[], ethertype)
    }

    /// With VLAN tags, outermost first.
    pub fn tagged(&self, tags: &[(u16, u16)], ethertype: u16) -> Self {
        let tags: Vec<u8> =
            tags.iter().flat_map(|(kind, tag)| [kind.to_be_bytes(), tag.to_be_bytes()].concat()).collect();
        self.behind(&[&DESTINATION[..], &SOURCE, &tags, &ethertype.to_be_bytes()].concat())
    }

    /// The stack puts the pseudo-header's sum where a checksum is missing, if that is this packet's own.
    fn seeded(&self, addresses: &[u8], protocol: u8) -> Self {
        let mut stack = self.clone();
        if stack.from_start != 0 && stack.bytes.len() == stack.from_start {
            let length = (stack.from_start as u32).to_be_bytes();
            let sum = naive(&[addresses, &[0, protocol], &length].concat());
            let field = usize::from(stack.field);
            stack.bytes[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        }
        stack
    }

    pub fn v4(&self, protocol: u8, id: u16, flags: u16, options: &[u8]) -> Self {
        assert_eq!(options.len() % 4, 0);
        let header_len = 20 + options.len();
        let mut header = vec![0x40 | (header_len / 4) as u8, 0x02];
        header.extend(((header_len + self.bytes.len()) as u16).to_be_bytes());
        header.extend(id.to_be_bytes());
        header.extend(flags.to_be_bytes());
        header.extend([63, protocol, 0, 0]);
        header.extend(V4);
        header.extend(options);
        let checksum = !naive(&header);
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
        self.seeded(&V4, protocol).behind(&header)
    }

    /// `extensions`: type, and bytes behind the two of next header and length.
    pub fn v6(&self, protocol: u8, extensions: &[(u8, &[u8])]) -> Self {
        let mut header = Vec::new();
        for (index, (_, bytes)) in extensions.iter().enumerate() {
            assert_eq!(bytes.len() % 8, 6);
            let next = extensions.get(index + 1).map_or(protocol, |extension| extension.0);
            header.extend([next, (bytes.len() / 8) as u8]);
            header.extend(*bytes);
        }
        let next = extensions.first().map_or(protocol, |extension| extension.0);
        let length = ((header.len() + self.bytes.len()) as u16).to_be_bytes();
        let start = [0x6b, 0x01, 0x23, 0x45, length[0], length[1], next, 63];
        self.seeded(&V6, protocol).behind(&[&start[..], &V6, &header].concat())
    }

    /// With checksum, key and sequence number as `flags` say, and anything in them.
    pub fn gre(&self, ethertype: u16, flags: u16) -> Self {
        let fields = (flags & 0xb000).count_ones() as usize;
        let header = [&flags.to_be_bytes()[..], &ethertype.to_be_bytes(), &[0x77; 12][..fields * 4]].concat();
        self.behind(&header)
    }

    pub fn vxlan(&self, checksum: u16) -> Self {
        udp_around(&self.behind(&[8, 0, 0, 0, 0, 0x10, 0x92, 0]), 4789, checksum)
    }

    pub fn geneve(&self, ethertype: u16, options: usize, checksum: u16) -> Self {
        let kind = ethertype.to_be_bytes();
        let header = [&[options as u8, 0, kind[0], kind[1], 0, 0x10, 0x92, 0][..], &vec![0x5a; 4 * options]];
        udp_around(&self.behind(&header.concat()), 6081, checksum)
    }

    /// Where the checksum is that is left to the card.
    pub fn place(&self) -> Option<ChecksumPlace> {
        (self.from_start != 0)
            .then(|| ChecksumPlace { start: (self.bytes.len() - self.from_start) as u16, field: self.field })
    }

    pub fn header(&self, kind: Segmentation, gso_size: u16) -> RecordHeader {
        RecordHeader {
            captured_len: self.bytes.len() as u32,
            original_len: self.bytes.len() as u32,
            segmentation: kind as u16,
            gso_size,
            checksum: self.place().map_or(0, ChecksumPlace::packed),
            ..RecordHeader::default()
        }
    }

    pub fn cut(&self, kind: Segmentation, gso_size: u16) -> Vec<Vec<u8>> {
        cut(&self.header(kind, gso_size), &self.bytes).unwrap_or_else(|| panic!("not understood: {self:?}"))
    }
}

/// The wire frames, with what must always hold for them. `None` where the frame goes as it is.
pub fn cut(header: &RecordHeader, bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut cut = Cut::of(header, bytes)?;
    let count = cut.count();
    assert_ne!(count, 0);
    let mut frames = Vec::new();
    let mut head = [0xee; HEAD_MAX];
    while let Some(piece) = cut.next(&mut head) {
        assert_eq!(piece.head_len % 2, 0);
        let frame = [&head[..piece.head_len], &bytes[piece.body.clone()]].concat();
        assert_eq!(frame.len(), piece.length());
        frames.push(frame);
        assert_eq!(cut.count(), count - frames.len());
        assert_eq!(piece.is_last, frames.len() == count);
    }
    assert_eq!(frames.len(), count);
    assert!(cut.next(&mut head).is_none());
    Some(frames)
}

//! Segments of many TCP connections, both ways, each with a number of its own: for tests of which connections are
//! mirrored.

use crate::frames::checksum::Sum;

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const ACK: u8 = 16;

/// Bytes of a segment with nothing but its number.
pub const SHORTEST: usize = PAYLOAD + 8;

const IP: usize = 14;
const TCP: usize = IP + 20;
const PAYLOAD: usize = TCP + 20;

/// One segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Below 2^20.
    pub connection: u32,
    /// From the server to the client.
    pub is_answer: bool,
    pub flags: u8,
    pub number: u64,
    /// Bytes of the frame.
    pub len: usize,
}

impl Segment {
    /// Writes the frame, which is for no host here.
    pub fn write(&self, out: &mut Vec<u8>) {
        let Self { connection, is_answer, flags, number, len } = *self;
        let [_, a, b, c] = connection.to_be_bytes();
        let client = ([10, 64 + a, b, c], 1_024 + (connection % 60_000) as u16);
        let server = ([10, 200, 0, 1], 443);
        let (source, destination) = if is_answer { (server, client) } else { (client, server) };
        out.clear();
        out.extend([2, 0, 0, 0, 0x99, 2, 2, 0, 0, 0, 0x99, 1, 8, 0]);
        out.extend([0x45, 0]);
        out.extend((len.max(SHORTEST) as u16 - IP as u16).to_be_bytes());
        out.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
        out.extend(source.0);
        out.extend(destination.0);
        let sum = Sum::default().with(&out[IP..TCP]).finish();
        out[IP + 10..IP + 12].copy_from_slice(&sum.to_be_bytes());
        out.extend(source.1.to_be_bytes());
        out.extend(destination.1.to_be_bytes());
        out.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
        out.extend(number.to_be_bytes());
        out.resize(len.max(SHORTEST), 0xa5);
    }

    /// The frame.
    #[must_use]
    pub fn frame(&self) -> Vec<u8> {
        let mut frame = Vec::new();
        self.write(&mut frame);
        frame
    }

    /// Reads such a frame; nothing from any other.
    #[must_use]
    pub fn read(frame: &[u8]) -> Option<Self> {
        if frame.len() < SHORTEST || frame[..14] != [2, 0, 0, 0, 0x99, 2, 2, 0, 0, 0, 0x99, 1, 8, 0] {
            return None;
        }
        let is_answer = frame[IP + 12..IP + 16] == [10, 200, 0, 1];
        let client = &frame[if is_answer { IP + 16 } else { IP + 12 }..][..4];
        Some(Self {
            connection: u32::from_be_bytes([0, client[1] - 64, client[2], client[3]]),
            is_answer,
            flags: frame[TCP + 13],
            number: u64::from_be_bytes(frame[PAYLOAD..PAYLOAD + 8].try_into().ok()?),
            len: frame.len(),
        })
    }
}

/// The two fragments of a UDP datagram, of which only the first one has ports.
#[must_use]
pub fn fragments(connection: u32) -> [Vec<u8>; 2] {
    [(0, true), (3, false)].map(|(offset, has_more)| {
        let [_, a, b, c] = connection.to_be_bytes();
        let mut frame = vec![2, 0, 0, 0, 0x99, 2, 2, 0, 0, 0, 0x99, 1, 8, 0, 0x45, 0, 0, 44];
        frame.extend((connection as u16).to_be_bytes());
        frame.extend((offset | u16::from(has_more) << 13).to_be_bytes());
        frame.extend([64, 17, 0, 0, 10, 64 + a, b, c, 10, 200, 0, 2]);
        let sum = Sum::default().with(&frame[IP..TCP]).finish();
        frame[IP + 10..IP + 12].copy_from_slice(&sum.to_be_bytes());
        frame.extend([4, 0, 0, 53, 0, 48, 0, 0]);
        frame.resize(IP + 44, offset as u8);
        frame
    })
}

/// The connection of a frame of [`fragments`].
#[must_use]
pub fn fragment(frame: &[u8]) -> Option<u32> {
    let is_one = frame.len() == IP + 44 && frame[IP + 9] == 17 && frame[IP + 16..IP + 20] == [10, 200, 0, 2];
    is_one.then(|| u32::from_be_bytes([0, frame[IP + 13] - 64, frame[IP + 14], frame[IP + 15]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for is_answer in [false, true] {
            let segment =
                Segment { connection: 70_007, is_answer, flags: SYN | ACK, number: 1 << 40, len: 100 };
            assert_eq!(Segment::read(&segment.frame()), Some(segment));
        }
        let [first, second] = fragments(70_007);
        assert_eq!([fragment(&first), fragment(&second)], [Some(70_007); 2]);
        assert_eq!((Segment::read(&first), fragment(&[0; 58])), (None, None));
    }
}

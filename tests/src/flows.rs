//! Frames by direction of a connection: whether two captures have the same, and the bytes that TCP carried.
//! Written from RFC 791, 8200 and 9293; it shares no code with the agent.

use std::collections::{BTreeMap, HashMap};

use crate::agent;

const ARP: u16 = 0x0806;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const TAGS: [u16; 2] = [0x8100, 0x88a8];
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
/// In front of ICMPv6, in reports of multicast groups.
const HOP_BY_HOP: u8 = 0;
/// Differences written out; the rest is only counted.
const SHOWN: usize = 5;

const FIN: u8 = 1;
const SYN: u8 = 2;

/// One direction of a connection: addresses, one after the other, and ports.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Direction {
    pub addresses: Vec<u8>,
    pub source: u16,
    pub destination: u16,
}

/// Where a frame's IP packet carries what.
struct Packet<'a> {
    protocol: u8,
    addresses: &'a [u8],
    /// From the transport header to the packet's end. Without the padding of short frames.
    transport: &'a [u8],
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().unwrap()))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().unwrap()))
}

/// The EtherType behind the tags, and where it is.
fn network(frame: &[u8]) -> Option<(u16, usize)> {
    let at = (12..).step_by(4).find(|at| half(frame, *at).is_none_or(|kind| !TAGS.contains(&kind)))?;
    Some((half(frame, at)?, at + 2))
}

/// Neither fragments nor extension headers: what the tests' own traffic has none of.
fn packet(frame: &[u8]) -> Option<Packet<'_>> {
    let (ethertype, at) = network(frame)?;
    let bytes = &frame[at..];
    let (protocol, addresses, start, end) = match ethertype {
        IPV4 => {
            let start = usize::from(bytes.first()? & 15) * 4;
            (*bytes.get(9)?, bytes.get(12..20)?, start, usize::from(half(bytes, 2)?))
        }
        IPV6 => (*bytes.get(6)?, bytes.get(8..40)?, 40, 40 + usize::from(half(bytes, 4)?)),
        _ => return None,
    };
    Some(Packet { protocol, addresses, transport: bytes.get(start..end.min(bytes.len()))? })
}

/// Whatever tells the frames of one direction of a connection from others: the Ethernet header and, where
/// there are such, IP addresses and ports.
fn key(frame: &[u8]) -> Vec<u8> {
    let head = &frame[..frame.len().min(network(frame).map_or(14, |(_, at)| at))];
    let packet = packet(frame).map(|packet| {
        let ports = match packet.protocol {
            TCP | UDP => packet.transport.get(..4),
            _ => None,
        };
        [packet.addresses, &[packet.protocol], ports.unwrap_or(&[])].concat()
    });
    [head, &packet.unwrap_or_default()].concat()
}

/// Whether a host sends it when it likes: address resolution, and reports of multicast groups.
fn is_resolution(frame: &[u8]) -> bool {
    network(frame).is_some_and(|(ethertype, _)| ethertype == ARP)
        || packet(frame).is_some_and(|packet| matches!(packet.protocol, ICMPV6 | HOP_BY_HOP))
}

fn by_direction(frames: &[Vec<u8>]) -> BTreeMap<Vec<u8>, Vec<&[u8]>> {
    let mut directions = BTreeMap::<_, Vec<&[u8]>>::new();
    for frame in frames.iter().filter(|frame| !is_resolution(frame)) {
        directions.entry(key(frame)).or_default().push(frame);
    }
    directions
}

/// Checks that two captures have the same frames in the same order, in each direction of each connection.
/// Address resolution does not count.
///
/// # Panics
/// Where they have not, with the first frames that differ, or where `wire` has fewer than `least` frames.
pub fn assert_same(wire: &[Vec<u8>], mirrored: &[Vec<u8>], least: usize) {
    let (mut wire, mut mirrored) = (by_direction(wire), by_direction(mirrored));
    if agent::is_redirecting() {
        // A local sender that the scheduler moves from one processor to another overtakes itself in the veth's queue of
        // each: redirect mode promises no more order than that (README, "Sent by the kernel"). `order` counts how much.
        wire.values_mut().chain(mirrored.values_mut()).for_each(|frames| frames.sort_unstable());
    }
    let total: usize = wire.values().map(Vec::len).sum();
    assert!(total >= least, "too little traffic to compare: {total} frames on the wire");
    let mut faults = Vec::new();
    let mut count = 0;
    for (direction, expected) in &wire {
        let got = mirrored.remove(direction).unwrap_or_default();
        let differing = expected.iter().zip(&got).filter(|(expected, got)| expected != got).count()
            + expected.len().abs_diff(got.len());
        if differing > 0 {
            count += 1;
            let at = expected.iter().zip(&got).position(|(expected, got)| expected != got);
            let at = at.unwrap_or(expected.len().min(got.len()));
            faults.push(format!(
                "{} frames on the wire, {} mirrored, {differing} not the same; frame {at}{}:\n    wire {}\nmirrored {}",
                expected.len(),
                got.len(),
                place_of_difference(expected.get(at), got.get(at)),
                expected.get(at).map_or_else(String::new, |frame| hex(frame)),
                got.get(at).map_or_else(String::new, |frame| hex(frame)),
            ));
        }
    }
    for got in mirrored.values() {
        count += 1;
        faults.push(format!("{} frames that were never on the wire, such as {}", got.len(), hex(got[0])));
    }
    faults.truncate(SHOWN);
    assert!(count == 0, "{count} of {} directions differ:\n{}", wire.len(), faults.join("\n"));
    println!("{total} frames in {} directions are the same", wire.len());
}

fn place_of_difference(expected: Option<&&[u8]>, got: Option<&&[u8]>) -> String {
    let place = expected.zip(got).and_then(|(a, b)| a.iter().zip(b.iter()).position(|(a, b)| a != b));
    place.map_or_else(String::new, |place| format!(" from byte {place} on"))
}

fn hex(frame: &[u8]) -> String {
    let bytes: String = frame.iter().take(96).map(|byte| format!("{byte:02x}")).collect();
    format!("{bytes}{} ({} bytes)", if frame.len() > 96 { "..." } else { "" }, frame.len())
}

/// A running hash of bytes. It does not matter in what pieces they come.
#[derive(Debug, Clone)]
pub struct Digest {
    state: u64,
    rest: [u8; 8],
    length: u64,
}

impl Default for Digest {
    fn default() -> Self {
        Self { state: 0xcbf2_9ce4_8422_2325, rest: [0; 8], length: 0 }
    }
}

impl Digest {
    /// Adds bytes.
    pub fn add(&mut self, mut bytes: &[u8]) {
        let held = (self.length % 8) as usize;
        self.length += bytes.len() as u64;
        if held > 0 {
            let taken = bytes.len().min(8 - held);
            self.rest[held..held + taken].copy_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            if held + taken < 8 {
                return;
            }
            self.mix(u64::from_le_bytes(self.rest));
        }
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.mix(u64::from_le_bytes(*word));
        }
        self.rest[..rest.len()].copy_from_slice(rest);
    }

    /// FNV-1a's step, with words for bytes and the high half carried down.
    fn mix(&mut self, word: u64) {
        self.state = (self.state ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }

    /// The hash of all bytes so far, and how many there were.
    #[must_use]
    pub fn sum(&self) -> (u64, u64) {
        let mut last = self.clone();
        let held = (last.length % 8) as usize;
        last.rest[held..].fill(0);
        last.mix(u64::from_le_bytes(last.rest));
        last.mix(last.length);
        (last.state, last.length)
    }
}

/// Bytes of a stream's start that are kept as they are, and that each go into one hash.
pub const BLOCK: usize = 1 << 20;

/// Segments behind a gap that are kept: more than any window.
const WAITING: usize = 1000;

/// What one direction of a TCP connection carried.
#[derive(Debug, Clone, Default)]
pub struct Stream {
    /// Its first bytes, up to a [`BLOCK`].
    pub head: Vec<u8>,
    /// The hash of each whole [`BLOCK`].
    pub blocks: Vec<u64>,
    block: Digest,
    /// The sequence number of the next byte; unknown before the SYN.
    next: Option<u32>,
    /// Segments that came before what is in front of them.
    waiting: Vec<(u32, Vec<u8>)>,
    end: Option<u32>,
    /// Segments that came before what is in front of them. (What is sent once more is no fault.)
    pub early: u64,
}

impl Stream {
    fn segment(&mut self, sequence: u32, flags: u8, payload: &[u8]) {
        let start = sequence.wrapping_add(u32::from(flags & SYN != 0));
        if flags & SYN != 0 {
            self.next = Some(start);
        }
        if flags & FIN != 0 {
            self.end = Some(start.wrapping_add(payload.len() as u32));
        }
        if payload.is_empty() {
            return;
        }
        // Of a stream that was there before, nothing is known.
        if self.next.is_none() {
            return;
        }
        if self.ahead(start) > 0 {
            self.early += 1;
            // What is missing for so long does not come any more.
            if self.waiting.len() < WAITING {
                self.waiting.push((start, payload.to_vec()));
            }
            return;
        }
        self.take_from(start, payload);
        while let Some(at) = self.waiting.iter().position(|(start, _)| self.ahead(*start) <= 0) {
            let (start, payload) = self.waiting.swap_remove(at);
            self.take_from(start, &payload);
        }
    }

    /// How far a sequence number is behind the last byte that is there.
    fn ahead(&self, sequence: u32) -> i32 {
        sequence.wrapping_sub(self.next.unwrap_or(sequence)) as i32
    }

    /// Takes what is new of a segment that starts with the next byte or before.
    fn take_from(&mut self, start: u32, payload: &[u8]) {
        let known = self.ahead(start).unsigned_abs() as usize;
        if let Some(new) = payload.get(known..) {
            self.take(new);
        }
    }

    fn take(&mut self, payload: &[u8]) {
        self.add(payload);
        self.next = self.next.map(|next| next.wrapping_add(payload.len() as u32));
    }

    /// Adds what comes next.
    pub fn add(&mut self, bytes: &[u8]) {
        let kept = bytes.len().min(BLOCK - self.head.len());
        self.head.extend_from_slice(&bytes[..kept]);
        let mut rest = bytes;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(BLOCK - self.block.length as usize));
            self.block.add(now);
            if self.block.length as usize == BLOCK {
                self.blocks.push(std::mem::take(&mut self.block).sum().0);
            }
            rest = later;
        }
    }

    /// The hash of all bytes that are there without a gap, and how many those are.
    #[must_use]
    pub fn so_far(&self) -> (u64, u64) {
        let mut all = Digest::default();
        self.blocks.iter().for_each(|block| all.add(&block.to_le_bytes()));
        let (rest, length) = self.block.sum();
        all.add(&rest.to_le_bytes());
        (all.sum().0, (self.blocks.len() * BLOCK) as u64 + length)
    }

    /// Whether something is missing in the middle.
    #[must_use]
    pub fn has_gap(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The hash of all bytes and how many there were, where every one from the SYN to the FIN is there.
    #[must_use]
    pub fn complete(&self) -> Option<(u64, u64)> {
        (self.end.is_some() && self.end == self.next).then(|| self.so_far())
    }
}

/// [`Stream::so_far`] of these bytes.
#[must_use]
pub fn digest(pieces: &[&[u8]]) -> (u64, u64) {
    let mut stream = Stream::default();
    pieces.iter().for_each(|piece| stream.add(piece));
    stream.so_far()
}

/// The streams of the connections in a capture.
#[derive(Debug, Clone, Default)]
pub struct Streams(HashMap<Direction, Stream>);

impl Streams {
    /// Looks at a frame.
    pub fn look(&mut self, frame: &[u8]) {
        let segment = packet(frame).filter(|packet| packet.protocol == TCP);
        let Some((direction, (sequence, flags, payload))) =
            segment.and_then(|packet| Some((direction(&packet)?, parts(packet.transport)?)))
        else {
            return;
        };
        self.0.entry(direction).or_default().segment(sequence, flags, payload);
    }

    /// Those of a whole capture.
    #[must_use]
    pub fn of(frames: &[Vec<u8>]) -> Self {
        let mut streams = Self::default();
        frames.iter().for_each(|frame| streams.look(frame));
        streams
    }

    /// The streams that some check chooses.
    #[must_use]
    pub fn chosen(&self, choose: impl Fn(&Stream) -> bool) -> Vec<&Stream> {
        self.0.values().filter(|stream| choose(stream)).collect()
    }
}

fn direction(packet: &Packet<'_>) -> Option<Direction> {
    Some(Direction {
        addresses: packet.addresses.to_vec(),
        source: half(packet.transport, 0)?,
        destination: half(packet.transport, 2)?,
    })
}

/// Sequence number, flags and payload of a TCP segment.
fn parts(segment: &[u8]) -> Option<(u32, u8, &[u8])> {
    let header = usize::from(segment.get(12)? >> 4) * 4;
    Some((word(segment, 4)?, *segment.get(13)?, segment.get(header..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_does_not_depend_on_the_pieces() {
        let bytes: Vec<u8> = (0..1000u32).map(|number| (number * 7 + number / 251) as u8).collect();
        let whole = digest(&[&bytes]);
        assert_eq!(whole.1, 1000);
        for size in [1, 3, 7, 8, 9, 64, 999] {
            let pieces: Vec<&[u8]> = bytes.chunks(size).collect();
            assert_eq!(digest(&pieces), whole, "pieces of {size}");
        }
        let mut other = bytes.clone();
        other.swap(500, 501);
        assert_ne!(digest(&[&other]), whole);
        assert_ne!(digest(&[&bytes[..999]]), whole);
        assert_ne!(digest(&[&[0; 8]]), digest(&[&[0; 9]]));
    }

    #[test]
    fn blocks_do_not_depend_on_the_pieces() {
        let bytes: Vec<u8> = (0..BLOCK * 5 / 2).map(|number| (number * 7 + number / 251) as u8).collect();
        let (mut whole, mut pieces) = (Stream::default(), Stream::default());
        whole.add(&bytes);
        bytes.chunks(1447).for_each(|piece| pieces.add(piece));
        let block = |bytes: &[u8]| {
            let mut digest = Digest::default();
            digest.add(bytes);
            digest.sum().0
        };
        assert_eq!(whole.blocks, [block(&bytes[..BLOCK]), block(&bytes[BLOCK..2 * BLOCK])]);
        assert_eq!((&whole.blocks, &whole.head), (&pieces.blocks, &pieces.head));
        assert_eq!(whole.so_far(), pieces.so_far());
    }

    /// A TCP segment over IPv4 with one tag.
    fn segment(sequence: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([0x81, 0, 0, 7, 8, 0, 0x45, 0]);
        frame.extend((40 + payload.len() as u16).to_be_bytes());
        frame.extend([0, 0, 0, 0, 64, TCP, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0x1f, 0x40, 0xc0, 0]);
        frame.extend(sequence.to_be_bytes());
        frame.extend([0, 0, 0, 0, 0x50, flags, 0, 0, 0, 0, 0, 0]);
        frame.extend(payload);
        frame.extend([0; 6]);
        frame
    }

    #[test]
    fn a_stream_is_put_together_and_its_gaps_are_seen() {
        let segments = [
            (u32::MAX - 1, SYN, &b""[..]),
            (u32::MAX, 0, b"abc"),
            (2, 0, b"de"),
            (4, FIN, b"f"),
            (7, 0, b""),
        ];
        let frames: Vec<_> = segments.iter().map(|(at, flags, bytes)| segment(*at, *flags, bytes)).collect();
        let stream = |frames: &[Vec<u8>]| {
            let streams = Streams::of(frames);
            assert_eq!(streams.0.len(), 1);
            streams.0.into_values().next().unwrap()
        };
        let right = stream(&frames);
        assert_eq!(
            (right.complete(), &right.head[..], right.early),
            (Some(digest(&[b"abcdef"])), &b"abcdef"[..], 0)
        );
        let mut swapped = frames.clone();
        swapped.swap(1, 2);
        assert_eq!((stream(&swapped).complete(), stream(&swapped).early), (right.complete(), 1));
        // The middle once more, with a byte before and a byte behind.
        let mut again = frames.clone();
        again.insert(3, segment(1, 0, b"cdef"));
        assert_eq!((stream(&again).complete(), stream(&again).early), (right.complete(), 0));
        let mut gap = frames.clone();
        gap.remove(2);
        assert_eq!(stream(&gap).complete(), None);
        assert!(stream(&gap).has_gap() && !stream(&swapped).has_gap());
        assert_eq!(stream(&frames[..3]).complete(), None, "no end");
    }

    #[test]
    fn captures_that_differ_are_found_out() {
        let frames: Vec<_> = (0..9).map(|number| segment(number, 0, &[number as u8; 5])).collect();
        let differs =
            |mirrored: &[Vec<u8>]| std::panic::catch_unwind(|| assert_same(&frames, mirrored, 9)).is_err();
        assert!(!differs(&frames));
        assert!(differs(&frames[..8]), "one is missing");
        assert!(differs(&[&frames[..], &frames[8..]].concat()), "one is there twice");
        let mut changed = frames.clone();
        changed[4][59] ^= 1;
        assert!(differs(&changed), "one is another");
        let mut swapped = frames.clone();
        swapped.swap(3, 4);
        assert!(differs(&swapped), "the order is another");
        let mut more = frames.clone();
        more.push(segment(1, 0, b"x"));
        more[9][11] = 1;
        assert!(differs(&more), "one of another host");
        assert!(std::panic::catch_unwind(|| assert_same(&frames, &frames, 10)).is_err(), "too few");
    }
}

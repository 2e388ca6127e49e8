//! Samples on their way from one sending thread to the control plane: a ring of slots, with one writer and one reader.
//!
//! All of it is atomic words, so that there is nothing to be unsafe about. What is in a slot is written and read relaxed;
//! the two positions order that. The writer fills a slot and then stores `written` with release; the reader loads it with
//! acquire and so sees the slots in front of it as they were filled. The reader stores `read` with release when it has
//! copied a slot out; the writer loads it with acquire before it fills that slot again, so that no store to it can be
//! seen by the loads that came before. On x86-64 all these are plain moves.

use std::{
    array,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
};

use super::table::Sample;

/// Bytes kept of a frame: Ethernet with two tags, IPv6 with some extension headers, and ports.
pub const PREFIX: usize = 128;

const WORDS: usize = PREFIX / size_of::<u64>();

/// Five times what a [`PERIOD`](super::PERIOD) is to bring, for what comes at once; a power of two.
const SLOTS: usize = 2048;

#[derive(Debug)]
struct Slot {
    /// How many frames it stands for, above; bytes of the frame on the wire, below.
    weight_and_len: AtomicU64,
    /// The flow's hash, above; bytes that follow, below.
    hash_and_captured: AtomicU64,
    words: [AtomicU64; WORDS],
}

/// The ring.
#[derive(Debug)]
pub struct Queue {
    slots: Box<[Slot]>,
    written: Position,
    read: Position,
    /// Samples for which there was no room.
    missed: AtomicU64,
}

/// On a cache line of its own, and on the one that is fetched with it.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Position(AtomicUsize);

impl Default for Queue {
    fn default() -> Self {
        Self::new()
    }
}

impl Queue {
    /// All slots free.
    #[must_use]
    pub fn new() -> Self {
        let slot = |_| Slot {
            weight_and_len: AtomicU64::new(0),
            hash_and_captured: AtomicU64::new(0),
            words: array::from_fn(|_| AtomicU64::new(0)),
        };
        Self {
            slots: (0..SLOTS).map(slot).collect(),
            written: Position::default(),
            read: Position::default(),
            missed: AtomicU64::new(0),
        }
    }

    /// Puts a sample in, of which `bytes` are the frame's first. Only the one sending thread may.
    pub fn push(&self, weight: u32, wire_len: u32, flow_hash: u32, bytes: &[u8]) {
        let at = self.written.0.load(Ordering::Relaxed);
        if at.wrapping_sub(self.read.0.load(Ordering::Acquire)) >= SLOTS {
            self.missed.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let slot = &self.slots[at % SLOTS];
        let bytes = &bytes[..bytes.len().min(PREFIX)];
        slot.weight_and_len.store(pair(weight, wire_len), Ordering::Relaxed);
        slot.hash_and_captured.store(pair(flow_hash, bytes.len() as u32), Ordering::Relaxed);
        for (word, bytes) in slot.words.iter().zip(bytes.chunks(size_of::<u64>())) {
            let mut whole = [0; size_of::<u64>()];
            whole[..bytes.len()].copy_from_slice(bytes);
            word.store(u64::from_ne_bytes(whole), Ordering::Relaxed);
        }
        self.written.0.store(at.wrapping_add(1), Ordering::Release);
    }

    /// Takes the oldest sample out, its bytes into `bytes`. Only one thread at a time may.
    pub fn pop(&self, bytes: &mut [u8; PREFIX]) -> Option<Sample> {
        let at = self.read.0.load(Ordering::Relaxed);
        if at == self.written.0.load(Ordering::Acquire) {
            return None;
        }
        let slot = &self.slots[at % SLOTS];
        let (weight, wire_len) = halves(slot.weight_and_len.load(Ordering::Relaxed));
        let (flow_hash, captured) = halves(slot.hash_and_captured.load(Ordering::Relaxed));
        let captured_len = (captured as usize).min(PREFIX);
        for (word, bytes) in slot.words.iter().zip(bytes[..captured_len].chunks_mut(size_of::<u64>())) {
            let whole = word.load(Ordering::Relaxed).to_ne_bytes();
            bytes.copy_from_slice(&whole[..bytes.len()]);
        }
        self.read.0.store(at.wrapping_add(1), Ordering::Release);
        Some(Sample { weight, wire_len, flow_hash, captured_len })
    }

    /// How many samples had no room since this was last asked.
    pub fn take_missed(&self) -> u64 {
        self.missed.swap(0, Ordering::Relaxed)
    }
}

fn pair(above: u32, below: u32) -> u64 {
    u64::from(above) << 32 | u64::from(below)
}

fn halves(pair: u64) -> (u32, u32) {
    ((pair >> 32) as u32, pair as u32)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn samples_come_out_as_they_went_in() {
        let queue = Queue::new();
        let mut bytes = [0; PREFIX];
        assert!(queue.pop(&mut bytes).is_none());
        for length in [0, 1, 7, 8, 9, 60, PREFIX, PREFIX + 30] {
            let frame: Vec<u8> = (0..length).map(|at| at as u8 ^ 0x5a).collect();
            queue.push(3, length as u32, 77, &frame);
            let captured_len = length.min(PREFIX);
            let expected = Sample { weight: 3, wire_len: length as u32, flow_hash: 77, captured_len };
            assert_eq!(queue.pop(&mut bytes), Some(expected));
            assert_eq!(bytes[..captured_len], frame[..captured_len]);
        }
    }

    #[test]
    fn what_has_no_room_is_counted() {
        let queue = Queue::new();
        for number in 0..SLOTS as u32 + 5 {
            queue.push(1, number, 0, &[1]);
        }
        assert_eq!((queue.take_missed(), queue.take_missed()), (5, 0));
        let mut bytes = [0; PREFIX];
        let lengths: Vec<_> =
            std::iter::from_fn(|| queue.pop(&mut bytes)).map(|sample| sample.wire_len).collect();
        assert_eq!(lengths, (0..SLOTS as u32).collect::<Vec<_>>());
    }

    #[test]
    fn a_reader_sees_whole_slots_while_the_writer_goes_on() {
        const COUNT: u32 = 200_000;
        let queue = Queue::new();
        thread::scope(|scope| {
            scope.spawn(|| {
                for number in 0..COUNT {
                    queue.push(number, number, number, &[number as u8; PREFIX]);
                }
            });
            let (mut bytes, mut seen, mut last) = ([0; PREFIX], 0, None);
            while seen + queue.missed.load(Ordering::Relaxed) < u64::from(COUNT) {
                let Some(sample) = queue.pop(&mut bytes) else { continue };
                assert_eq!((sample.weight, sample.flow_hash), (sample.wire_len, sample.wire_len));
                assert_eq!(bytes, [sample.wire_len as u8; PREFIX]);
                assert!(last < Some(sample.wire_len), "in order");
                last = Some(sample.wire_len);
                seen += 1;
            }
        });
    }
}

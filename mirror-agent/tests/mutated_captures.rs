//! Reads a million captures that were damaged on purpose. Each reading has to end, within bounds of memory and
//! without a panic. The same captures come on every run.

#![allow(clippy::unwrap_used)]

mod written;

use std::{
    io::{self, Cursor, Read},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use mirror_agent::source::capture::{CAPTURED_MAX, CaptureReader, INTERFACES_MAX, PACKET_BLOCK_MAX};
use written::{
    COMMENT, COOKED, COOKED_2, ETHERNET, IF_NAME, IF_TSOFFSET, IF_TSRESOL, LOOP, NULL, RAW, Written, cooked,
    cooked_2, gzip, zstd, zstd_skippable,
};

const CASES: u64 = 1_000_000;

/// Of so many cases, one is compressed.
const COMPRESSED_SHARE: u64 = 8;

/// A guard against reading that never ends; no capture here has as many packets.
const PACKETS_MAX: usize = 1 << 20;

/// SplitMix64, by Sebastiano Vigna: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, which is not 0.
    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn range(&mut self, len: usize) -> std::ops::Range<usize> {
        let start = self.below(len + 1);
        start..start + self.below((len - start).min(200) + 1)
    }
}

/// Small valid captures, of every format and with every block.
fn captures() -> Vec<Vec<u8>> {
    let data: Vec<u8> = (0..60).collect();
    let mut captures = Vec::new();
    for (big, nanoseconds) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut capture = Written::pcap(big, nanoseconds, ETHERNET);
        for len in [60, 14, 0, 33] {
            capture.record(1_700_000_000, 999_999, 60, &data[..len]);
        }
        captures.push(capture.bytes);
    }
    let ip = [0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    let mac = [2, 0, 0, 0, 0, 9];
    for (link_type, packet) in [
        (RAW, ip.to_vec()),
        (NULL, [&[2, 0, 0, 0], &ip[..]].concat()),
        (LOOP, [&[0, 0, 0, 24], &ip[..]].concat()),
        (COOKED, cooked(4, 1, &mac, 0x0800, &ip)),
        (COOKED, cooked(1, 1, &mac, 0x0004, &ip)),
        (COOKED_2, cooked_2(0, 772, &mac, 0x86dd, &ip)),
    ] {
        let mut capture = Written::pcap(false, false, link_type);
        captures.push(capture.record(1, 2, 90, &packet).record(3, 4, 90, &packet).bytes.clone());
    }
    let mut old = Written::pcap_version(true, false, ETHERNET, 2);
    captures.push(old.record(1, 2, 60, &data).record(1, 2, 60, &data).bytes.clone());
    for big in [false, true] {
        captures.push(all_blocks(big, &data));
        let mut simple = Written::pcapng(big);
        simple.interface(ETHERNET, 20, &[]).simple(60, &data[..20]).simple(15, &data[..15]);
        captures.push(simple.section(!big).interface(RAW, 0, &[]).simple(20, &ip).bytes.clone());
    }
    captures
}

fn all_blocks(big: bool, data: &[u8]) -> Vec<u8> {
    let mut capture = Written::pcapng(big);
    let name = (IF_NAME, b"eth0".to_vec());
    capture.interface(ETHERNET, 0, &[name, (IF_TSRESOL, vec![9]), (IF_TSOFFSET, vec![0; 8])]);
    capture.interface(COOKED, 0, &[(IF_TSRESOL, vec![0x80 | 30])]).interface(195, 0, &[]);
    let options = [(COMMENT, b"a comment".to_vec()), capture.flags(2)];
    capture.enhanced(0, 1 << 60, 60, data, &options);
    capture.block(4, &[0; 4]).block(0xbad, &[1; 41]);
    capture.enhanced(1, 1 << 61, 36, &cooked(0, 1, &[2; 6], 0x0800, &data[..20]), &[]);
    capture.obsolete(0, 3, 14, &data[..14], &options).simple(33, &data[..33]);
    capture.block(5, &[0; 12]);
    capture.bytes
}

/// Damages `bytes` in one place; `others` are captures to take parts from.
fn mutate(random: &mut Random, bytes: &mut Vec<u8>, others: &[Vec<u8>]) {
    const LENGTHS: [u32; 16] = [
        0,
        1,
        4,
        8,
        11,
        12,
        13,
        16,
        28,
        32,
        CAPTURED_MAX,
        CAPTURED_MAX + 1,
        PACKET_BLOCK_MAX,
        PACKET_BLOCK_MAX + 4,
        0x7fff_ffff,
        u32::MAX,
    ];
    if bytes.is_empty() {
        return;
    }
    match random.below(8) {
        0 => {
            let at = random.below(bytes.len());
            bytes[at] ^= 1 << random.below(8);
        }
        1 => {
            let at = random.below(bytes.len());
            bytes[at] = random.next() as u8;
        }
        2 => bytes.truncate(random.below(bytes.len())),
        // A length, or what is taken for one, anew or a little changed.
        3 | 4 => {
            let at = random.below(bytes.len()) & !3;
            if let Some(field) = bytes[at..].first_chunk_mut::<4>() {
                let little = random.below(2) == 0;
                let old = if little { u32::from_le_bytes(*field) } else { u32::from_be_bytes(*field) };
                let new = match random.below(3) {
                    0 => old.wrapping_add(random.below(9) as u32).wrapping_sub(4),
                    1 => random.next() as u32 >> random.below(32),
                    _ => LENGTHS[random.below(LENGTHS.len())],
                };
                *field = if little { new.to_le_bytes() } else { new.to_be_bytes() };
            }
        }
        5 => {
            let other = &others[random.below(others.len())];
            let part = other[random.range(other.len())].to_vec();
            let place = random.range(bytes.len());
            bytes.splice(place, part);
        }
        6 => {
            let part = bytes[random.range(bytes.len())].to_vec();
            let at = random.below(bytes.len());
            bytes.splice(at..at, part);
        }
        _ => {
            let part = random.range(bytes.len());
            bytes.drain(part);
        }
    }
}

/// Counts how often it is read.
struct Watched {
    bytes: Cursor<Vec<u8>>,
    reads: Arc<AtomicUsize>,
}

impl Read for Watched {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.bytes.read(into)
    }
}

/// How readings ended.
#[derive(Debug, Default)]
struct Tally {
    cases: u64,
    packets: u64,
    whole: u64,
    damaged: u64,
    capacity_max: usize,
    slowest: Duration,
}

/// Reads a capture to its end.
fn read(bytes: Vec<u8>, read_len: usize, is_plain: bool, tally: &mut Tally) {
    let len = bytes.len();
    let reads = Arc::new(AtomicUsize::new(0));
    let input = Watched { bytes: Cursor::new(bytes), reads: reads.clone() };
    let mut reader = CaptureReader::from_reader(Box::new(input), read_len);
    let mut packets = 0;
    let mut position = None;
    let damage = loop {
        let (may_read, reads_before) = (reader.needs_read(), reads.load(Ordering::Relaxed));
        let next = reader.next();
        assert!(may_read || reads.load(Ordering::Relaxed) == reads_before, "a read without a warning");
        match next {
            Ok(Some(packet)) => {
                assert!(position < Some(packet.position), "packets in the order of the file");
                position = Some(packet.position);
                assert!((packet.interface as usize) < INTERFACES_MAX);
                if let Ok(frame) = packet.frame {
                    assert!(frame.captured_len() <= CAPTURED_MAX as usize + 14);
                    assert!(frame.captured_len() <= packet.original_len as usize);
                    assert!(frame.captured_len() >= 14);
                }
            }
            Ok(None) => break None,
            Err(damage) => break Some(damage),
        }
        packets += 1;
        assert!(packets < PACKETS_MAX, "reading does not end");
    };
    assert!(reader.next().unwrap().is_none() && !reader.needs_read());
    let capacity = reader.buffer_capacity();
    assert!(capacity <= read_len.max(PACKET_BLOCK_MAX as usize));
    if is_plain {
        // Whatever lengths the capture claims.
        assert!(capacity <= read_len.max(2 * len), "{capacity} bytes of memory for {len}");
    }
    tally.capacity_max = tally.capacity_max.max(capacity);
    tally.packets += packets as u64;
    match damage {
        None => tally.whole += 1,
        Some(damage) => {
            let text = damage.to_string();
            assert!(!text.is_empty() && !text.contains('\n'), "{text:?}");
            tally.damaged += 1;
        }
    }
}

fn run(seed: u64, cases: u64) -> Tally {
    let plain = captures();
    let compressed: Vec<_> = plain
        .iter()
        .flat_map(|capture| {
            let (start, end) = capture.split_at(capture.len() / 2);
            let skippable = zstd_skippable(b"skipped");
            [
                gzip(capture),
                [gzip(start), gzip(end)].concat(),
                zstd(capture),
                [zstd(start), skippable, zstd(end)].concat(),
            ]
        })
        .collect();
    let mut random = Random(seed);
    let mut tally = Tally::default();
    for case in 0..cases {
        let is_plain = case % COMPRESSED_SHARE != 0;
        let from = if is_plain { &plain } else { &compressed };
        let mut bytes = from[random.below(from.len())].clone();
        for _ in 0..=random.below(4) / 2 {
            mutate(&mut random, &mut bytes, from);
        }
        // Compressed data can come from what was meant to be plain only by chance, and must not be held to
        // the bound of plain data.
        let is_plain = is_plain && !matches!(bytes.get(..2), Some([0x1f, 0x8b] | [0x28, 0xb5]));
        let begin = Instant::now();
        read(bytes, 1 << random.below(12), is_plain, &mut tally);
        tally.slowest = tally.slowest.max(begin.elapsed());
        tally.cases += 1;
    }
    tally
}

#[test]
fn a_million_damaged_captures() {
    const THREADS: u64 = 2;
    let begin = Instant::now();
    let threads: Vec<_> =
        (0..THREADS).map(|seed| thread::spawn(move || run(seed, CASES / THREADS))).collect();
    let mut cases = 0;
    for thread in threads {
        let tally = thread.join().unwrap();
        println!("{tally:?}");
        cases += tally.cases;
        // The mutations are neither all harmless nor all fatal at once.
        assert!(tally.whole > tally.cases / 100 && tally.damaged > tally.cases / 100);
        assert!(tally.packets > tally.cases);
    }
    assert_eq!(cases, CASES);
    println!("{cases} captures in {:.1} s", begin.elapsed().as_secs_f64());
}

#[test]
fn undamaged_captures_are_read_to_their_end() {
    for capture in captures() {
        let mut tally = Tally::default();
        for (bytes, is_plain) in [(capture.clone(), true), (gzip(&capture), false), (zstd(&capture), false)] {
            read(bytes, 64, is_plain, &mut tally);
        }
        assert_eq!((tally.whole, tally.damaged), (3, 0));
        assert_eq!(tally.packets % 3, 0);
    }
}

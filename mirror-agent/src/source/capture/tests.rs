#![allow(clippy::unwrap_used)]

use std::{
    io::{self, Cursor, Read},
    sync::atomic::{AtomicUsize, Ordering},
};

use super::*;

#[path = "../../../tests/written/mod.rs"]
mod written;

mod compressed;
mod damaged;
mod link_types;
mod round_trip;

/// A packet as it was read: position, interface, time, direction, original length, frame.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    position: u64,
    interface: u32,
    time_ns: Option<u64>,
    direction: Option<Direction>,
    original_len: u32,
    frame: Result<Vec<u8>, Unplayable>,
}

/// What a capture has: packets, names of interfaces, and how reading ended.
type Content = (Vec<Seen>, Vec<Option<String>>, Option<String>);

/// Gives no more than `at_once` bytes, and counts how often it was asked.
struct Trickle {
    bytes: Cursor<Vec<u8>>,
    at_once: usize,
    reads: Arc<AtomicUsize>,
}

impl Read for Trickle {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let reads = self.reads.fetch_add(1, Ordering::Relaxed);
        if reads % 5 == 1 {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let len = into.len().min(self.at_once);
        self.bytes.read(&mut into[..len])
    }
}

/// Reads `bytes` to the end, `at_once` bytes at a time into a window of `read_len`.
fn read_in_parts(bytes: &[u8], at_once: usize, read_len: usize) -> Content {
    let reads = Arc::new(AtomicUsize::new(0));
    let input = Trickle { bytes: Cursor::new(bytes.to_vec()), at_once, reads: reads.clone() };
    let mut reader = CaptureReader::from_reader(Box::new(input), read_len);
    let mut seen = Vec::new();
    let mut names = Vec::new();
    let end = loop {
        let (may_read, reads_before) = (reader.needs_read(), reads.load(Ordering::Relaxed));
        let next = reader.next();
        assert!(may_read || reads_before == reads.load(Ordering::Relaxed), "it reads without saying so");
        match next {
            Ok(None) => break None,
            Err(damage) => break Some(damage.to_string()),
            Ok(Some(packet)) => {
                let frame = packet.frame.map(|frame| [&frame.prefix, frame.rest].concat());
                let Packet { position, interface, time_ns, direction, original_len, .. } = packet;
                seen.push(Seen { position, interface, time_ns, direction, original_len, frame });
                names.push(reader.interface_name(interface).map(String::from));
            }
        }
    };
    assert!(matches!(reader.next(), Ok(None)) && !reader.needs_read());
    (seen, names, end)
}

/// Reads `bytes` in parts of different sizes, which makes no difference.
fn content(bytes: &[u8]) -> Content {
    let content = read_in_parts(bytes, usize::MAX, READ_LEN);
    for (at_once, read_len) in [(1, 1), (7, 100), (1000, 64)] {
        if bytes.len() < 10_000 {
            assert_eq!(read_in_parts(bytes, at_once, read_len), content);
        }
    }
    content
}

/// The packets of a capture that is not damaged.
fn packets(bytes: &[u8]) -> Vec<Seen> {
    let (packets, _, end) = content(bytes);
    assert_eq!(end, None);
    packets
}

/// The number of packets, and the damage behind them.
fn damage(bytes: &[u8]) -> (usize, String) {
    let (packets, _, end) = content(bytes);
    (packets.len(), end.unwrap())
}

fn temporary(name: &str) -> std::path::PathBuf {
    std::env::temp_dir().join(format!("mirror-agent-capture-{}-{name}", std::process::id()))
}

#[test]
fn a_file_is_opened_and_its_bytes_are_counted() {
    let path = temporary("counted.pcap.zst");
    let mut capture = written::Written::pcap(false, true, written::ETHERNET);
    for _ in 0..1000 {
        capture.record(1, 2, 60, &[7; 60]);
    }
    let bytes = written::zstd(&capture.bytes);
    std::fs::write(&path, &bytes).unwrap();
    let consumed = Arc::new(AtomicU64::new(99));
    let mut reader = CaptureReader::open(&path, consumed.clone()).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(consumed.load(Ordering::Relaxed), 0);
    assert!(reader.needs_read());
    let mut count = 0;
    while let Some(packet) = reader.next().unwrap() {
        assert_eq!(packet.time_ns, Some(1_000_000_002));
        count += 1;
    }
    assert_eq!(count, 1000);
    assert_eq!(consumed.load(Ordering::Relaxed), bytes.len() as u64);
}

#[test]
fn a_fifo_is_read_like_a_file() {
    let path = temporary("fifo");
    make_fifo(&path);
    let mut capture = written::Written::pcap(true, false, written::ETHERNET);
    capture.record(1, 2, 60, &[7; 60]);
    let (bytes, target) = (capture.bytes, path.clone());
    let writer = std::thread::spawn(move || std::fs::write(target, bytes).unwrap());
    let mut reader = CaptureReader::open(&path, Arc::default()).unwrap();
    assert_eq!(reader.next().unwrap().unwrap().original_len, 60);
    assert!(reader.next().unwrap().is_none());
    writer.join().unwrap();
    std::fs::remove_file(&path).unwrap();
}

fn make_fifo(path: &Path) {
    let status = std::process::Command::new("mkfifo").arg(path).status().unwrap();
    assert!(status.success());
}

#[test]
fn what_cannot_be_opened_says_why() {
    let error = |path: &Path| format!("{:#}", CaptureReader::open(path, Arc::default()).err().unwrap());
    assert_eq!(error(&temporary("missing")), "cannot be opened: No such file or directory (os error 2)");
    assert_eq!(error(Path::new("/")), "it is a directory: name the captures in it");
}

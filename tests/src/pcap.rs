//! Classic pcap files, little-endian, Ethernet: just what the tests write and what tcpdump and tshark
//! write for them. Written from draft-ietf-opsawg-pcap; it shares no code with the agent.

use std::{
    fs::{self, File},
    io::{BufWriter, Write as _},
    path::Path,
};

const MICROSECONDS: u32 = 0xa1b2_c3d4;
const NANOSECONDS: u32 = 0xa1b2_3c4d;
const ETHERNET: u32 = 1;

/// A captured frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Nanoseconds since 1970.
    pub time: u64,
    pub bytes: Vec<u8>,
}

/// Reads a whole file.
///
/// # Panics
/// Where it is not such a file, ends in the middle of a frame, or has frames that were cut short.
#[must_use]
pub fn read(path: &Path) -> Vec<Packet> {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()));
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    assert!(bytes.len() >= 24, "{} is too short for a pcap file", path.display());
    let scale = match word(0) {
        MICROSECONDS => 1000,
        NANOSECONDS => 1,
        other => panic!("{} is no pcap file: it starts with {other:#x}", path.display()),
    };
    assert_eq!(word(20) & 0xffff, ETHERNET, "link type of {}", path.display());
    let mut packets = Vec::new();
    let mut at = 24;
    while at < bytes.len() {
        let len = word(at + 8) as usize;
        assert_eq!(len, word(at + 12) as usize, "a frame was cut in {}", path.display());
        packets.push(Packet {
            time: u64::from(word(at)) * 1_000_000_000 + u64::from(word(at + 4)) * scale,
            bytes: bytes[at + 16..at + 16 + len].to_vec(),
        });
        at += 16 + len;
    }
    packets
}

/// Writes a nanosecond file.
#[derive(Debug)]
pub struct Writer {
    file: BufWriter<File>,
    snaplen: usize,
}

impl Writer {
    /// Starts a file whose frames are cut to `snaplen` bytes.
    ///
    /// # Panics
    /// Where it cannot be written.
    #[must_use]
    pub fn create(path: &Path, snaplen: usize) -> Self {
        let mut file = BufWriter::with_capacity(1 << 20, File::create(path).expect("cannot create a pcap"));
        file.write_all(&NANOSECONDS.to_le_bytes()).unwrap();
        file.write_all(&[2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap();
        file.write_all(&(snaplen as u32).to_le_bytes()).unwrap();
        file.write_all(&ETHERNET.to_le_bytes()).unwrap();
        Self { file, snaplen }
    }

    /// Adds a frame; `time` in nanoseconds since 1970.
    ///
    /// # Panics
    /// Where it cannot be written.
    pub fn write(&mut self, time: u64, frame: &[u8]) {
        let kept = &frame[..frame.len().min(self.snaplen)];
        for word in [time / 1_000_000_000, time % 1_000_000_000, kept.len() as u64, frame.len() as u64] {
            self.file.write_all(&(word as u32).to_le_bytes()).unwrap();
        }
        self.file.write_all(kept).unwrap();
    }

    /// Ends the file.
    ///
    /// # Panics
    /// Where it cannot be written.
    pub fn finish(mut self) {
        self.file.flush().expect("cannot write a pcap");
    }
}

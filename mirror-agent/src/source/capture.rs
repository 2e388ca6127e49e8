//! Captures in pcap and pcapng, plain or compressed, read as a stream of Ethernet frames.
//!
//! A capture's way: `capture/input.rs` opens and decompresses, `window.rs` holds the part that is in memory,
//! `pcap.rs` and `pcapng.rs` find the packets in it, and `ethernet.rs` makes them Ethernet frames. A packet's
//! bytes are not copied, and nothing is allocated for one. Memory is bounded whatever the input says.

use std::{
    io::Read,
    ops::Range,
    path::Path,
    sync::{Arc, atomic::AtomicU64},
};

use mirror_common::record::Direction;
use pcap_file::Endianness;

pub use self::{
    damage::{Damage, Reason},
    ethernet::{EthernetFrame, MacAddress, PREFIX_LEN, SYNTHETIC_DESTINATION, SYNTHETIC_SOURCE, Unplayable},
    input::{Compression, STDIN},
};
use self::{input::Input, link_type::LinkType, pcap::Pcap, pcapng::PcapNg, window::Window};

mod cooked;
mod damage;
mod ethernet;
mod fields;
mod input;
mod interface;
mod link_type;
mod options;
mod pcap;
mod pcapng;
mod time;
mod window;

/// The most bytes that a capture holds of one packet: libpcap's MAXIMUM_SNAPLEN.
pub const CAPTURED_MAX: u32 = 262_144;

/// The most bytes of a block that has to be in memory as a whole: a packet with its options, or an interface.
pub const PACKET_BLOCK_MAX: u32 = 16 * 1024 * 1024;

/// The most interfaces of a capture, over all its sections.
pub const INTERFACES_MAX: usize = 65_536;

/// Bytes read at once.
pub const READ_LEN: usize = 256 * 1024;

/// Reads a capture, packet by packet in the order of the file.
pub struct CaptureReader {
    window: Window,
    format: Format,
    /// Whether the capture has ended, or reading has.
    is_over: bool,
}

/// How far it is known what the capture is.
enum Format {
    /// Nothing has been read.
    Unknown,
    Pcap(Pcap),
    PcapNg(PcapNg),
}

/// A packet, in the memory of its reader.
#[derive(Debug)]
pub struct Packet<'a> {
    /// Bytes from the beginning of the (decompressed) capture to its record or block.
    pub position: u64,
    /// Its interface: numbered from 0 over all sections, in the order of the descriptions; 0 in pcap. Reading
    /// the same capture again gives the same numbers.
    pub interface: u32,
    /// Nanoseconds since 1970-01-01 00:00:00 UTC. `None` where the capture does not say, as in simple packet
    /// blocks, and where it is before 1970 or after 2554.
    pub time_ns: Option<u64>,
    /// Which way it crossed its interface; `None` where the capture does not say.
    pub direction: Option<Direction>,
    /// Bytes of the whole Ethernet frame: what the packet had on the wire, less the header that was taken
    /// off it, and with the one put in front. Never fewer than the frame has. Of an unplayable packet, what it
    /// had on the wire.
    pub original_len: u32,
    /// Its captured bytes as an Ethernet frame.
    pub frame: Result<EthernetFrame<'a>, Unplayable>,
}

/// A packet as its format gives it, link header and all.
struct Record {
    position: u64,
    interface: u32,
    time_ns: Option<u64>,
    direction: Option<Direction>,
    /// Never less than the captured bytes.
    original_len: u32,
    /// Or the number of one whose packets cannot be made Ethernet frames.
    link_type: Result<LinkType, u32>,
    /// Of the writer.
    order: Endianness,
    /// The captured bytes, as [`Window::at`] has them.
    data: Range<usize>,
}

impl CaptureReader {
    /// Opens `path`; [`STDIN`] is standard input. Waits, where it is a FIFO that nobody writes; reads nothing.
    ///
    /// `consumed` is kept at the bytes read from the file so far, before decompression.
    ///
    /// # Errors
    /// `path` cannot be opened, or is a directory: why, for the caller to name it. What is wrong with its content, [`Self::next`] says.
    pub fn open(path: &Path, consumed: Arc<AtomicU64>) -> anyhow::Result<Self> {
        Ok(Self::from_reader(Box::new(input::open(path, consumed)?), READ_LEN))
    }

    /// Reads the capture that `bytes` gives, `read_len` bytes at once where there are so many. [`READ_LEN`] is
    /// the choice for speed.
    #[must_use]
    pub fn from_reader(bytes: Box<dyn Read + Send>, read_len: usize) -> Self {
        Self { window: Window::new(Input::plain(bytes), read_len), format: Format::Unknown, is_over: false }
    }

    /// Whether [`Self::next`] has to read from the input first, which may wait.
    #[must_use]
    pub fn needs_read(&self) -> bool {
        match &self.format {
            _ if self.is_over || self.window.has_ended() => false,
            Format::Unknown => true,
            Format::Pcap(pcap) => pcap.needs_read(&self.window),
            Format::PcapNg(pcapng) => pcapng.needs_read(&self.window),
        }
    }

    /// The next packet. `None` at the end of the capture, and ever after; also after an error.
    ///
    /// # Errors
    /// Reading cannot go on. All packets before the damage have been returned, save that up to 4 KiB in front of
    /// compressed data that is wrong may be lost: decompressors do not hand out what a failing call has done.
    #[allow(clippy::should_implement_trait, reason = "the packet borrows from the reader")]
    pub fn next(&mut self) -> Result<Option<Packet<'_>>, Damage> {
        let record = match self.record() {
            Ok(Some(record)) => record,
            end => {
                self.is_over = true;
                return end.map(|_| None);
            }
        };
        Ok(Some(ethernet::packet(&record, self.window.at(record.data.clone()))))
    }

    #[inline]
    fn record(&mut self) -> Result<Option<Record>, Damage> {
        if self.is_over {
            return Ok(None);
        }
        if matches!(self.format, Format::Unknown) {
            self.format = recognise(&mut self.window)?;
        }
        match &mut self.format {
            Format::Pcap(pcap) => pcap.next(&mut self.window),
            Format::PcapNg(pcapng) => pcapng.next(&mut self.window),
            // It has just been recognised.
            Format::Unknown => Ok(None),
        }
    }

    /// The name of an interface, as the capture tells it (if_name); no more than its first 255 bytes. `None`
    /// where it does not tell, and before its description has been read.
    #[must_use]
    pub fn interface_name(&self, interface: u32) -> Option<&str> {
        match &self.format {
            Format::PcapNg(pcapng) => pcapng.interface_name(interface),
            _ => None,
        }
    }

    /// Bytes of memory for the part of the capture that is being read: at most [`PACKET_BLOCK_MAX`], or
    /// what is read at once where that is more. A decompressor has up to 128 MiB of its own.
    #[must_use]
    pub fn buffer_capacity(&self) -> usize {
        self.window.capacity()
    }
}

/// Finds out by its first bytes what the input is, and reads a pcap header.
fn recognise(window: &mut Window) -> Result<Format, Damage> {
    /// Bytes that tell one format and one compression from another.
    const MAGIC_LEN: usize = 4;

    window.fill(MAGIC_LEN)?;
    if let Some(compression) = Compression::of(window.bytes()) {
        window.decompress(compression)?;
        window.fill(MAGIC_LEN)?;
    }
    let start = window.bytes();
    let reason = match start.first_chunk() {
        Some(magic) if *magic == pcapng::SECTION_HEADER.to_be_bytes() => {
            return Ok(Format::PcapNg(PcapNg::default()));
        }
        Some(magic) if pcap::is_magic(*magic) => return Ok(Format::Pcap(Pcap::read_header(window)?)),
        None if start.is_empty() => Reason::Empty,
        _ => Reason::NotACapture(start.iter().copied().take(MAGIC_LEN).collect()),
    };
    Err(Damage { position: 0, reason })
}

#[cfg(test)]
mod tests;

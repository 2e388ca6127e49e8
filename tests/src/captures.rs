//! Captures made byte by byte, in every variant that a reader has to take, and damaged ones. Written from
//! draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng and the link types' pages at tcpdump.org; it shares no
//! code with the agent.

use std::{fs, path::Path, process::Command};

use crate::{
    command,
    frames::{self, Kind, Plan},
};

pub mod samples;

/// Link types, as numbered at tcpdump.org.
pub mod link {
    pub const NULL: u32 = 0;
    pub const ETHERNET: u32 = 1;
    /// `DLT_RAW` of Linux, written to files by programs that ought not to.
    pub const RAW_12: u32 = 12;
    pub const RAW: u32 = 101;
    pub const LOOP: u32 = 108;
    pub const COOKED: u32 = 113;
    /// Radiotap, which the agent does not know.
    pub const RADIOTAP: u32 = 127;
    pub const IPV4: u32 = 228;
    pub const IPV6: u32 = 229;
    pub const COOKED2: u32 = 276;
}

const SECOND: u64 = 1_000_000_000;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const ARP: u16 = 0x0806;

/// Byte order of a file or section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    Little,
    Big,
}

impl Order {
    fn word(self, value: u32) -> [u8; 4] {
        if self == Self::Little { value.to_le_bytes() } else { value.to_be_bytes() }
    }

    fn half(self, value: u16) -> [u8; 2] {
        if self == Self::Little { value.to_le_bytes() } else { value.to_be_bytes() }
    }
}

/// Unit of a pcap file's time stamps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Micro,
    Nano,
}

/// A pcap file in the making.
#[derive(Debug)]
pub struct Pcap {
    order: Order,
    unit: Unit,
    bytes: Vec<u8>,
}

impl Pcap {
    /// A file's header.
    #[must_use]
    pub fn new(order: Order, unit: Unit, link: u32) -> Self {
        let magic = if unit == Unit::Nano { 0xa1b2_3c4d } else { 0xa1b2_c3d4 };
        let mut bytes = order.word(magic).to_vec();
        bytes.extend([order.half(2), order.half(4)].concat());
        bytes.extend([0, 0, 262_144, link].map(|word| order.word(word)).concat());
        Self { order, unit, bytes }
    }

    /// The usual: little-endian, nanoseconds, Ethernet.
    #[must_use]
    pub fn ethernet() -> Self {
        Self::new(Order::Little, Unit::Nano, link::ETHERNET)
    }

    /// Adds a packet; `time` in nanoseconds since 1970.
    pub fn packet(&mut self, time: u64, bytes: &[u8]) -> &mut Self {
        self.record(time, bytes.len() as u32, bytes.len() as u32, bytes)
    }

    /// Adds a record that says that `captured` of `len` bytes follow, whatever does.
    pub fn record(&mut self, time: u64, captured: u32, len: u32, bytes: &[u8]) -> &mut Self {
        let below = time % SECOND / if self.unit == Unit::Nano { 1 } else { 1_000 };
        for word in [(time / SECOND) as u32, below as u32, captured, len] {
            self.bytes.extend(self.order.word(word));
        }
        self.bytes.extend(bytes);
        self
    }

    /// The bytes so far. Their number is where the next record starts.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Writes the file.
    ///
    /// # Panics
    /// Where it cannot be written.
    pub fn save(&self, path: &Path) {
        fs::write(path, &self.bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

/// A pcapng file in the making.
#[derive(Debug)]
pub struct Pcapng {
    order: Order,
    bytes: Vec<u8>,
}

impl Pcapng {
    /// A file with one section so far.
    #[must_use]
    pub fn new(order: Order) -> Self {
        let mut file = Self { order, bytes: Vec::new() };
        file.section(order);
        file
    }

    /// Starts the next section.
    pub fn section(&mut self, order: Order) -> &mut Self {
        self.order = order;
        let mut body = order.word(0x1a2b_3c4d).to_vec();
        body.extend([order.half(1), order.half(0)].concat());
        body.extend([0xff; 8]); // its length is not said
        self.block(0x0a0d_0d0a, &body)
    }

    /// Adds a block of any kind, padded.
    pub fn block(&mut self, kind: u32, body: &[u8]) -> &mut Self {
        let len = 12 + body.len().next_multiple_of(4);
        self.bytes.extend(self.order.word(kind));
        self.bytes.extend(self.order.word(len as u32));
        self.bytes.extend(body);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self.bytes.extend(self.order.word(len as u32));
        self
    }

    /// Describes the section's next interface. Options 9 (`if_tsresol`), 2 (`if_name`) and so on.
    pub fn interface(&mut self, link: u32, options: &[(u16, &[u8])]) -> &mut Self {
        let mut body = [self.order.half(link as u16), [0; 2]].concat();
        body.extend(self.order.word(0)); // no limit
        for (code, value) in options {
            body.extend(self.order.half(*code));
            body.extend(self.order.half(value.len() as u16));
            body.extend(*value);
            body.resize(body.len().next_multiple_of(4), 0);
        }
        if !options.is_empty() {
            body.extend([0; 4]);
        }
        self.block(1, &body)
    }

    /// Adds an enhanced packet block with a comment; `time` in the interface's own unit.
    pub fn enhanced(&mut self, interface: u32, time: u64, packet: &[u8]) -> &mut Self {
        let len = packet.len() as u32;
        let words = [interface, (time >> 32) as u32, time as u32, len, len];
        let mut body = words.map(|word| self.order.word(word)).concat();
        body.extend(packet);
        body.resize(body.len().next_multiple_of(4), 0);
        body.extend([self.order.half(1), self.order.half(5)].concat());
        body.extend(b"hello\0\0\0\0\0\0\0");
        self.block(6, &body)
    }

    /// Adds a simple packet block: of interface 0, without a time.
    pub fn simple(&mut self, packet: &[u8]) -> &mut Self {
        let body = [&self.order.word(packet.len() as u32)[..], packet].concat();
        self.block(3, &body)
    }

    /// Adds an obsolete packet block.
    pub fn obsolete(&mut self, interface: u16, time: u64, packet: &[u8]) -> &mut Self {
        let mut body = [self.order.half(interface), self.order.half(0xffff)].concat();
        let len = packet.len() as u32;
        body.extend([(time >> 32) as u32, time as u32, len, len].map(|word| self.order.word(word)).concat());
        body.extend(packet);
        self.block(2, &body)
    }

    /// The bytes so far. Their number is where the next block starts.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Writes the file.
    ///
    /// # Panics
    /// Where it cannot be written.
    pub fn save(&self, path: &Path) {
        fs::write(path, &self.bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

/// A network-layer packet with its ethertype.
pub type Packet = (u16, Vec<u8>);

/// The IP packets of the crafted frames below number `end`: both versions, fragments included, with headers
/// that are right and no padding (with that, tshark 4.0 does not give the bytes of a raw IP packet).
pub fn ip_packets(end: u64) -> impl Iterator<Item = Packet> {
    packets(end).filter(|(ethertype, _)| *ethertype != ARP)
}

/// As [`ip_packets`], with ARP.
pub fn packets(end: u64) -> impl Iterator<Item = Packet> {
    let right = |kind| !matches!(kind, Kind::Broken4 | Kind::Broken6 | Kind::PaddedTcp4);
    (0..end).filter(move |index| right(Plan::of(*index).kind)).filter_map(|index| {
        let frame = frames::frame(index);
        let ethertype = u16::from_be_bytes([frame[12], frame[13]]);
        [IPV4, IPV6, ARP].contains(&ethertype).then(|| (ethertype, frame[14..].to_vec()))
    })
}

/// A Linux cooked packet, version 1; `source` as long as the device's addresses are.
#[must_use]
pub fn cooked(source: &[u8], (ethertype, packet): &Packet) -> Vec<u8> {
    let mut bytes = vec![0, 0, 0, 1, 0, source.len() as u8];
    bytes.extend(source);
    bytes.resize(14, 0);
    bytes.extend(ethertype.to_be_bytes());
    bytes.extend(packet);
    bytes
}

/// The same, version 2.
#[must_use]
pub fn cooked2(source: &[u8], (ethertype, packet): &Packet) -> Vec<u8> {
    let mut bytes = ethertype.to_be_bytes().to_vec();
    bytes.extend([0, 0, 0, 0, 0, 7, 0, 1, 0, source.len() as u8]);
    bytes.extend(source);
    bytes.resize(20, 0);
    bytes.extend(packet);
    bytes
}

/// A loopback packet: the address family in `order`, 2 for IPv4, else `ipv6`, which each BSD has its own of.
#[must_use]
pub fn loopback(order: Order, ipv6: u32, (ethertype, packet): &Packet) -> Vec<u8> {
    let family = if *ethertype == IPV4 { 2 } else { ipv6 };
    [&order.word(family)[..], packet].concat()
}

/// A UDP frame over IPv4 of one of many flows, `len` bytes long.
///
/// # Panics
/// Where `len` leaves no room for the headers, or the IPv4 header cannot say it.
#[must_use]
pub fn udp_frame(flow: u16, len: usize) -> Vec<u8> {
    let [high, low] = flow.to_be_bytes();
    let word = |value: usize| u16::try_from(value).expect("too long").to_be_bytes();
    let mut frame = vec![2, 0, 0, 0, 9, 2, 2, 0, 0, 0, 9, 1, 8, 0, 0x45, 0];
    frame.extend(word(len - 14));
    frame.extend([0, 0, 0, 0, 64, 17, 0, 0, 10, 77, high, low, 10, 78, low, high]);
    let mut sum: u32 = frame[14..].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    frame[24..26].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    frame.extend([word(20_000 + usize::from(flow)), word(9_000), word(len - 34), [0; 2]].concat());
    frame.resize(len, 0x5a);
    frame
}

/// A capture of the crafted frames below number `end`, `gap` nanoseconds apart.
#[must_use]
pub fn crafted(end: u64, gap: u64) -> Pcap {
    let mut capture = Pcap::ethernet();
    for index in 0..end {
        capture.packet(START + index * gap, &frames::frame(index));
    }
    capture
}

/// When the captures of the tests start: not at a whole second.
pub const START: u64 = 1_700_000_000_123_456_789;

/// What gzip makes of `bytes`.
///
/// # Panics
/// Where gzip fails.
#[must_use]
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    compress("gzip", bytes)
}

/// What zstd makes of `bytes`, as it does from a pipe.
///
/// # Panics
/// Where zstd fails.
#[must_use]
pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    compress("zstd", bytes)
}

fn compress(program: &str, bytes: &[u8]) -> Vec<u8> {
    let scratch = crate::scratch::Scratch::new();
    let path = scratch.path("plain");
    fs::write(&path, bytes).expect("cannot write");
    let file = fs::File::open(&path).expect("cannot read");
    let output = command::finish(Command::new(program).args(["-q", "-c"]).stdin(file));
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

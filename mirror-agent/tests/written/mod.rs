//! Writes captures of every kind, field by field, for tests of the reader.

// Not every test needs all of it.
#![allow(dead_code, clippy::unwrap_used)]

use std::io::Write;

pub const ETHERNET: u32 = 1;
pub const RAW: u32 = 101;
pub const NULL: u32 = 0;
pub const LOOP: u32 = 108;
pub const COOKED: u32 = 113;
pub const COOKED_2: u32 = 276;

/// Option codes of pcapng.
pub const COMMENT: u16 = 1;
pub const IF_NAME: u16 = 2;
pub const IF_TSRESOL: u16 = 9;
pub const IF_TSOFFSET: u16 = 14;
pub const FLAGS: u16 = 2;

/// An option of a block: its code and its value.
pub type Opt = (u16, Vec<u8>);

/// A capture that is being written.
#[derive(Clone, Debug, Default)]
pub struct Written {
    pub bytes: Vec<u8>,
    /// Byte order.
    pub big: bool,
}

impl Written {
    pub fn u16(&mut self, number: u16) -> &mut Self {
        let bytes = if self.big { number.to_be_bytes() } else { number.to_le_bytes() };
        self.bytes.extend(bytes);
        self
    }

    pub fn u32(&mut self, number: u32) -> &mut Self {
        let bytes = if self.big { number.to_be_bytes() } else { number.to_le_bytes() };
        self.bytes.extend(bytes);
        self
    }

    /// A pcap file header of version 2.`minor`.
    pub fn pcap_version(big: bool, nanoseconds: bool, link_type: u32, minor: u16) -> Self {
        let mut out = Self { bytes: Vec::new(), big };
        out.u32(if nanoseconds { 0xa1b2_3c4d } else { 0xa1b2_c3d4 }).u16(2).u16(minor);
        out.u32(0).u32(0).u32(262_144).u32(link_type);
        out
    }

    pub fn pcap(big: bool, nanoseconds: bool, link_type: u32) -> Self {
        Self::pcap_version(big, nanoseconds, link_type, 4)
    }

    /// A pcap record.
    pub fn record(&mut self, seconds: u32, part: u32, original: u32, data: &[u8]) -> &mut Self {
        self.u32(seconds).u32(part).u32(data.len() as u32).u32(original);
        self.bytes.extend(data);
        self
    }

    /// A pcapng capture that begins with a section.
    pub fn pcapng(big: bool) -> Self {
        let mut out = Self::default();
        out.section(big);
        out
    }

    /// The header of a section, which has its own byte order.
    pub fn section(&mut self, big: bool) -> &mut Self {
        self.big = big;
        let mut body = Self { bytes: Vec::new(), big };
        body.u32(0x1a2b_3c4d).u16(1).u16(0).u32(u32::MAX).u32(u32::MAX);
        self.block(0x0a0d_0d0a, &body.bytes)
    }

    /// A block of any kind; pads `body`.
    pub fn block(&mut self, kind: u32, body: &[u8]) -> &mut Self {
        let len = body.len().next_multiple_of(4);
        self.u32(kind).u32(len as u32 + 12);
        self.bytes.extend(body);
        self.bytes.extend(&[0; 3][..len - body.len()]);
        self.u32(len as u32 + 12)
    }

    /// A description of an interface.
    pub fn interface(&mut self, link_type: u32, snaplen: u32, options: &[Opt]) -> &mut Self {
        let mut body = Self { bytes: Vec::new(), big: self.big };
        body.u16(link_type as u16).u16(0).u32(snaplen).options(options);
        self.block(1, &body.bytes)
    }

    /// An enhanced packet block.
    pub fn enhanced(
        &mut self,
        interface: u32,
        count: u64,
        original: u32,
        data: &[u8],
        options: &[Opt],
    ) -> &mut Self {
        let mut body = Self { bytes: Vec::new(), big: self.big };
        body.u32(interface).packet(count, original, data, options);
        self.block(6, &body.bytes)
    }

    /// An obsolete packet block.
    pub fn obsolete(
        &mut self,
        interface: u16,
        count: u64,
        original: u32,
        data: &[u8],
        options: &[Opt],
    ) -> &mut Self {
        let mut body = Self { bytes: Vec::new(), big: self.big };
        body.u16(interface).u16(0xffff).packet(count, original, data, options);
        self.block(2, &body.bytes)
    }

    /// A simple packet block.
    pub fn simple(&mut self, original: u32, data: &[u8]) -> &mut Self {
        let mut body = Self { bytes: Vec::new(), big: self.big };
        body.u32(original).bytes.extend(data);
        self.block(3, &body.bytes)
    }

    fn packet(&mut self, count: u64, original: u32, data: &[u8], options: &[Opt]) {
        self.u32((count >> 32) as u32).u32(count as u32).u32(data.len() as u32).u32(original);
        self.bytes.extend(data);
        self.pad();
        self.options(options);
    }

    fn options(&mut self, options: &[Opt]) {
        for (code, value) in options {
            self.u16(*code).u16(value.len() as u16);
            self.bytes.extend(value);
            self.pad();
        }
        if !options.is_empty() {
            self.u32(0);
        }
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// The flags option of a packet, in this section's byte order.
    pub fn flags(&self, flags: u32) -> Opt {
        let mut value = Self { bytes: Vec::new(), big: self.big };
        value.u32(flags);
        (FLAGS, value.bytes)
    }
}

/// A Linux cooked packet, version 1.
pub fn cooked(packet_type: u16, hardware: u16, address: &[u8], protocol: u16, payload: &[u8]) -> Vec<u8> {
    let mut out = Written { bytes: Vec::new(), big: true };
    out.u16(packet_type).u16(hardware).u16(address.len() as u16);
    out.bytes.extend(address);
    out.bytes.resize(14, 0);
    out.u16(protocol);
    out.bytes.extend(payload);
    out.bytes
}

/// A Linux cooked packet, version 2.
pub fn cooked_2(packet_type: u8, hardware: u16, address: &[u8], protocol: u16, payload: &[u8]) -> Vec<u8> {
    let mut out = Written { bytes: Vec::new(), big: true };
    out.u16(protocol).u16(0).u32(3).u16(hardware);
    out.bytes.extend([packet_type, address.len() as u8]);
    out.bytes.extend(address);
    out.bytes.resize(20, 0);
    out.bytes.extend(payload);
    out.bytes
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A frame that zstd readers skip.
pub fn zstd_skippable(content: &[u8]) -> Vec<u8> {
    let mut out = Written::default();
    out.u32(0x184d_2a53).u32(content.len() as u32).bytes.extend(content);
    out.bytes
}

//! The pcap format, draft-ietf-opsawg-pcap: a file header, and then a record for each packet.
//!
//! pcap-file reads the file header. Records are read here: its own parser does not know the lengths' order
//! in old captures, and has no limit for them.

use pcap_file::{
    Endianness,
    pcap::{PcapHeader, PcapTsResolution},
};

use super::{
    CAPTURED_MAX, Record,
    damage::{Damage, Reason},
    fields::words,
    link_type::LinkType,
    window::Window,
};

/// Bytes of a file header.
const FILE_HEADER_LEN: usize = 24;

/// Bytes of a record's header: seconds, part of a second, captured length, original length.
const RECORD_HEADER_LEN: usize = 16;

/// Of the link type field. The bits above tell whether frames have check sequences and how long.
const LINK_TYPE_MASK: u32 = 0x03ff_ffff;

/// What the file header says.
pub(super) struct Pcap {
    order: Endianness,
    /// Nanoseconds that the second field of a time counts.
    unit_ns: u64,
    lengths: Lengths,
    link_type: LinkType,
}

/// Which comes first, the captured or the original length. Version 2.3 changed it, but not every program
/// that wrote that version; libpcap decides in the same way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lengths {
    CapturedFirst,
    OriginalFirst,
    /// The captured one is the smaller.
    SmallerIsCaptured,
}

/// Whether a pcap capture begins like this: either byte order, micro- or nanoseconds.
pub(super) fn is_magic(start: [u8; 4]) -> bool {
    const MICROSECONDS: u32 = 0xa1b2_c3d4;
    const NANOSECONDS: u32 = 0xa1b2_3c4d;
    [u32::from_be_bytes(start), u32::from_le_bytes(start)]
        .iter()
        .any(|&magic| magic == MICROSECONDS || magic == NANOSECONDS)
}

impl Pcap {
    /// Reads the file header; the capture begins as [`is_magic`] wants it.
    pub(super) fn read_header(window: &mut Window) -> Result<Self, Damage> {
        let damage = |reason| Damage { position: 0, reason };
        window.fill(FILE_HEADER_LEN)?;
        let Ok((_, header)) = PcapHeader::from_slice(window.bytes()) else {
            let there = window.bytes().len();
            return Err(damage(Reason::HeaderCut { of: "pcap file", len: FILE_HEADER_LEN, there }));
        };
        let (major, minor) = (header.version_major, header.version_minor);
        let lengths = match (major, minor) {
            (2, 0..3) => Lengths::OriginalFirst,
            (2, 3) => Lengths::SmallerIsCaptured,
            (2, _) => Lengths::CapturedFirst,
            _ => return Err(damage(Reason::Version { format: "pcap", major, minor })),
        };
        let number = u32::from(header.datalink) & LINK_TYPE_MASK;
        let link_type = LinkType::of(number).ok_or_else(|| damage(Reason::LinkType(number)))?;
        window.advance(FILE_HEADER_LEN);
        let unit_ns = match header.ts_resolution {
            PcapTsResolution::MicroSecond => 1000,
            PcapTsResolution::NanoSecond => 1,
        };
        Ok(Self { order: header.endianness, unit_ns, lengths, link_type })
    }

    /// See [`super::CaptureReader::needs_read`].
    pub(super) fn needs_read(&self, window: &Window) -> bool {
        let bytes = window.bytes();
        let Some(header) = words(bytes, self.order) else {
            return true;
        };
        let (captured, _) = self.lengths(header);
        captured <= CAPTURED_MAX && bytes.len() - RECORD_HEADER_LEN < captured as usize
    }

    /// See [`super::CaptureReader::next`].
    #[inline]
    pub(super) fn next(&mut self, window: &mut Window) -> Result<Option<Record>, Damage> {
        let position = window.position();
        let damage = |reason| Damage { position, reason };
        window.fill(RECORD_HEADER_LEN)?;
        let Some(header) = words(window.bytes(), self.order) else {
            let there = window.bytes().len();
            if there == 0 {
                return Ok(None);
            }
            return Err(damage(Reason::HeaderCut { of: "packet", len: RECORD_HEADER_LEN, there }));
        };
        let (captured, original) = self.lengths(header);
        if captured > CAPTURED_MAX {
            return Err(damage(Reason::PacketTooLong(captured)));
        }
        let len = RECORD_HEADER_LEN + captured as usize;
        if !window.fill(len)? {
            let there = (window.bytes().len() - RECORD_HEADER_LEN) as u64;
            return Err(damage(Reason::PacketCut { len: captured, there }));
        }
        let data = window.place(RECORD_HEADER_LEN..len);
        window.advance(len);
        // Does not overflow, even where the second field is more than a second: 2^32 seconds are 2^62
        // nanoseconds, and 2^32 microseconds 2^42.
        let time_ns = u64::from(header[0]) * 1_000_000_000 + u64::from(header[1]) * self.unit_ns;
        Ok(Some(Record {
            position,
            interface: 0,
            time_ns: Some(time_ns),
            direction: None,
            original_len: original.max(captured),
            link_type: Ok(self.link_type),
            order: self.order,
            data,
        }))
    }

    /// The captured and the original length.
    #[inline]
    fn lengths(&self, [_, _, first, second]: [u32; 4]) -> (u32, u32) {
        match self.lengths {
            Lengths::CapturedFirst => (first, second),
            Lengths::OriginalFirst => (second, first),
            Lengths::SmallerIsCaptured => (first.min(second), first.max(second)),
        }
    }
}

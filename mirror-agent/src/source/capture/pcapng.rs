//! The pcapng format, draft-ietf-opsawg-pcapng: a sequence of blocks, in sections with a byte order each.
//!
//! Blocks are read here rather than by pcap-file. It needs each block in memory as a whole, also those that
//! are only skipped, allocates vectors of options, and refuses captures that other tools read: units of time
//! below a nanosecond, names in other encodings than UTF-8, more captured than original bytes.

use pcap_file::Endianness;

use super::{
    CAPTURED_MAX, INTERFACES_MAX, PACKET_BLOCK_MAX, Record,
    damage::{Damage, Reason},
    fields::{halves, words},
    interface::Interface,
    options,
    window::Window,
};

/// Type of the block that begins a section: the same in both byte orders.
pub(super) const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
/// Obsolete since 2009.
const PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;

/// Bytes in front of a block's body: its type and its length.
const BLOCK_HEADER_LEN: usize = 8;

/// Bytes behind a block's body: its length again.
const TRAILER_LEN: usize = 4;

/// Bytes of a section header up to its version.
const SECTION_START_LEN: usize = 16;

/// Bytes of the shortest section header.
const SECTION_HEADER_LEN_MIN: u32 = 28;

/// What the blocks so far have said.
pub(super) struct PcapNg {
    /// Of the section.
    order: Endianness,
    /// Of all sections.
    interfaces: Vec<Interface>,
    /// Those of earlier sections.
    earlier: usize,
}

/// The first two fields of a block.
#[derive(Clone, Copy)]
struct BlockHeader {
    kind: u32,
    /// Of the whole block.
    len: u32,
    /// Of the section that the block is in, or begins.
    order: Endianness,
}

/// What packet blocks of all kinds tell.
struct PacketFields {
    /// Its number in the section.
    interface: u32,
    /// Time, in units of the interface's clock.
    count: Option<u64>,
    captured: u32,
    original: u32,
    /// Where in the body the captured bytes begin.
    data_at: usize,
}

impl Default for PcapNg {
    fn default() -> Self {
        // The order is that of the first section, which comes before all else.
        Self { order: Endianness::Little, interfaces: Vec::new(), earlier: 0 }
    }
}

impl BlockHeader {
    /// Whether it has to be in memory as a whole.
    fn is_read(self) -> bool {
        matches!(self.kind, INTERFACE_DESCRIPTION | PACKET | SIMPLE_PACKET | ENHANCED_PACKET)
    }

    fn is_packet(self) -> bool {
        self.is_read() && self.kind != INTERFACE_DESCRIPTION
    }

    /// Whether there can be such a block.
    fn check(self) -> Result<(), Reason> {
        let min = if self.kind == SECTION_HEADER {
            SECTION_HEADER_LEN_MIN
        } else {
            (BLOCK_HEADER_LEN + TRAILER_LEN) as u32
        };
        if self.len < min || !self.len.is_multiple_of(4) {
            Err(Reason::BlockLength(self.len))
        } else if self.is_read() && self.len > PACKET_BLOCK_MAX {
            Err(Reason::BlockTooLong(self.len))
        } else {
            Ok(())
        }
    }
}

impl PcapNg {
    /// See [`super::CaptureReader::interface_name`].
    pub(super) fn interface_name(&self, interface: u32) -> Option<&str> {
        self.interfaces.get(interface as usize)?.name.as_deref()
    }

    /// See [`super::CaptureReader::needs_read`]: looks for a packet, or damage, past the blocks of other kinds.
    pub(super) fn needs_read(&self, window: &Window) -> bool {
        let mut bytes = window.bytes();
        let mut order = self.order;
        loop {
            let Ok(Some(header)) = block_header(bytes, order) else {
                // An end of what is in memory, or a section without a byte order.
                return bytes.len() < SECTION_START_LEN;
            };
            if header.check().is_err() {
                return false;
            }
            let Some(behind) = bytes.get(header.len as usize..) else {
                return true;
            };
            if header.is_packet() {
                return false;
            }
            (bytes, order) = (behind, header.order);
        }
    }

    /// See [`super::CaptureReader::next`].
    #[inline]
    pub(super) fn next(&mut self, window: &mut Window) -> Result<Option<Record>, Damage> {
        loop {
            let position = window.position();
            let damage = |reason| Damage { position, reason };
            let Some(header) = self.begin_block(window)? else {
                return Ok(None);
            };
            if !header.is_read() {
                skip(window, header)?;
                continue;
            }
            let len = header.len as usize;
            if !window.fill(len)? {
                let there = window.bytes().len() as u64;
                return Err(damage(Reason::BlockCut { len: header.len, there }));
            }
            check_trailer(header, &window.bytes()[len - TRAILER_LEN..]).map_err(damage)?;
            let body = &window.bytes()[BLOCK_HEADER_LEN..len - TRAILER_LEN];
            if header.kind == INTERFACE_DESCRIPTION {
                if self.interfaces.len() == INTERFACES_MAX {
                    return Err(damage(Reason::TooManyInterfaces));
                }
                let interface = Interface::read(body, self.order).map_err(damage)?;
                self.interfaces.push(interface);
                window.advance(len);
                continue;
            }
            let mut record = self.packet(header, body).map_err(damage)?;
            record.position = position;
            let start = BLOCK_HEADER_LEN + record.data.start;
            record.data = window.place(start..start + record.data.len());
            window.advance(len);
            return Ok(Some(record));
        }
    }

    /// Reads a block's header, and begins a section where that is what it does. `None` at the end.
    #[inline]
    fn begin_block(&mut self, window: &mut Window) -> Result<Option<BlockHeader>, Damage> {
        let damage = |window: &Window, reason| Damage { position: window.position(), reason };
        window.fill(BLOCK_HEADER_LEN)?;
        let is_section = window.bytes().starts_with(&SECTION_HEADER.to_be_bytes());
        if is_section {
            window.fill(SECTION_START_LEN)?;
        }
        let header = match block_header(window.bytes(), self.order) {
            Ok(Some(header)) => header,
            Ok(None) => {
                let there = window.bytes().len();
                let len = if is_section { SECTION_START_LEN } else { BLOCK_HEADER_LEN };
                let reason =
                    Reason::HeaderCut { of: if is_section { "section" } else { "block" }, len, there };
                return if there == 0 { Ok(None) } else { Err(damage(window, reason)) };
            }
            Err(reason) => return Err(damage(window, reason)),
        };
        header.check().map_err(|reason| damage(window, reason))?;
        if is_section {
            let version = halves(&window.bytes()[BLOCK_HEADER_LEN + 4..], header.order);
            // Minor version 2 is another name of 0.
            if let Some([major, minor]) = version
                && (major != 1 || !matches!(minor, 0 | 2))
            {
                return Err(damage(window, Reason::Version { format: "pcapng", major, minor }));
            }
            self.order = header.order;
            self.earlier = self.interfaces.len();
        }
        Ok(Some(header))
    }

    /// The packet of a block. Its `data` is where in `body` it lies; the position is left to the caller.
    #[inline]
    fn packet(&self, header: BlockHeader, body: &[u8]) -> Result<Record, Reason> {
        let fields = self.packet_fields(header.kind, body)?.ok_or(Reason::BlockLength(header.len))?;
        let interface = self.interface(fields.interface)?;
        let captured = fields.captured;
        if captured > CAPTURED_MAX {
            return Err(Reason::PacketTooLong(captured));
        }
        let data = fields.data_at..fields.data_at + captured as usize;
        let Some(behind) = body.get(data.end..) else {
            return Err(Reason::PacketBeyondBlock { len: captured, room: body.len() - fields.data_at });
        };
        // A simple packet block has no options, and what is behind its data is no more than padding.
        let direction = match header.kind {
            SIMPLE_PACKET => None,
            _ => options::direction(
                behind.get(data.len().wrapping_neg() % 4..).unwrap_or_default(),
                self.order,
            ),
        };
        Ok(Record {
            position: 0,
            // At most INTERFACES_MAX.
            interface: self.earlier as u32 + fields.interface,
            time_ns: fields.count.and_then(|count| interface.clock.time_ns(count)),
            direction,
            original_len: fields.original.max(captured),
            link_type: interface.link_type,
            order: self.order,
            data,
        })
    }

    /// The fields in front of a packet, sections 4.3 (enhanced), 4.4 (simple) and C.1 (obsolete). `None` where
    /// the body is too short for them.
    #[inline]
    fn packet_fields(&self, kind: u32, body: &[u8]) -> Result<Option<PacketFields>, Reason> {
        let count = |high: u32, low: u32| Some(u64::from(high) << 32 | u64::from(low));
        if kind == SIMPLE_PACKET {
            let Some([original]) = words(body, self.order) else {
                return Ok(None);
            };
            // Its captured length is not in the block: it is what the interface's limit leaves.
            let captured = match self.interface(0)?.snaplen {
                0 => original,
                snaplen => original.min(snaplen),
            };
            return Ok(Some(PacketFields { interface: 0, count: None, captured, original, data_at: 4 }));
        }
        let Some([first, high, low, captured, original]) = words(body, self.order) else {
            return Ok(None);
        };
        let interface = match kind {
            // 16 bits, and the count of drops behind it.
            PACKET => halves(body, self.order).map_or(0, |[interface]| u32::from(interface)),
            _ => first,
        };
        Ok(Some(PacketFields { interface, count: count(high, low), captured, original, data_at: 20 }))
    }

    /// The interface with this number in the section.
    #[inline]
    fn interface(&self, number: u32) -> Result<&Interface, Reason> {
        let section = self.interfaces.get(self.earlier..).unwrap_or_default();
        section
            .get(number as usize)
            .ok_or(Reason::UnknownInterface { interface: number, described: section.len() })
    }
}

/// Reads the header of a block in a section of byte order `order`. `None` where there are not enough bytes:
/// [`SECTION_START_LEN`] for the beginning of a section, [`BLOCK_HEADER_LEN`] for others.
#[inline]
fn block_header(bytes: &[u8], order: Endianness) -> Result<Option<BlockHeader>, Reason> {
    let Some([kind, len]) = words(bytes, order) else {
        return Ok(None);
    };
    if kind != SECTION_HEADER {
        return Ok(Some(BlockHeader { kind, len, order }));
    }
    let Some(start) = bytes.first_chunk::<SECTION_START_LEN>() else {
        return Ok(None);
    };
    let [_, _, _, _, a, b, c, d, mark @ .., _, _, _, _] = *start;
    let len = [a, b, c, d];
    match mark {
        [0x1a, 0x2b, 0x3c, 0x4d] => {
            Ok(Some(BlockHeader { kind, len: u32::from_be_bytes(len), order: Endianness::Big }))
        }
        [0x4d, 0x3c, 0x2b, 0x1a] => {
            Ok(Some(BlockHeader { kind, len: u32::from_le_bytes(len), order: Endianness::Little }))
        }
        other => Err(Reason::ByteOrder(other)),
    }
}

/// Moves over a block, however long it is.
fn skip(window: &mut Window, header: BlockHeader) -> Result<(), Damage> {
    let position = window.position();
    let damage = |reason| Damage { position, reason };
    let len = u64::from(header.len);
    let left = window.skip(len - TRAILER_LEN as u64)?;
    if left > 0 || !window.fill(TRAILER_LEN)? {
        let there = window.position() - position + window.bytes().len() as u64;
        return Err(damage(Reason::BlockCut { len: header.len, there }));
    }
    check_trailer(header, window.bytes()).map_err(damage)?;
    window.advance(TRAILER_LEN);
    Ok(())
}

/// Compares a block's length with that behind its body.
#[inline]
fn check_trailer(header: BlockHeader, trailer: &[u8]) -> Result<(), Reason> {
    match words(trailer, header.order) {
        Some([trailer]) if trailer != header.len => Err(Reason::Trailer { len: header.len, trailer }),
        _ => Ok(()),
    }
}

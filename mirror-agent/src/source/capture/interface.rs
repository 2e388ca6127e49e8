//! Interfaces of pcapng captures, draft-ietf-opsawg-pcapng section 4.2.

use pcap_file::Endianness;

use super::{
    damage::Reason,
    fields::{halves, words},
    link_type::LinkType,
    options::Options,
    time::Clock,
};

/// Bytes of a description in front of its options: link type, 2 bytes reserved, limit of captured bytes.
const FIXED_LEN: usize = 8;

/// Bytes kept of a name, so that 65,536 of them have a bound. Linux has up to 15, Windows about 50.
const NAME_LEN_MAX: usize = 255;

const IF_NAME: u16 = 2;
const IF_TSRESOL: u16 = 9;
const IF_TSOFFSET: u16 = 14;

/// What a description says.
#[derive(Debug)]
pub(super) struct Interface {
    /// The number, where it is not supported: that matters only once there is a packet.
    pub(super) link_type: Result<LinkType, u32>,
    /// Most bytes captured of a packet; 0 for no limit.
    pub(super) snaplen: u32,
    pub(super) clock: Clock,
    pub(super) name: Option<Box<str>>,
}

impl Interface {
    /// Reads a description's body.
    pub(super) fn read(body: &[u8], order: Endianness) -> Result<Self, Reason> {
        /// Bytes of a block around its body.
        const AROUND: usize = 12;
        let (Some([link_type]), Some([_, snaplen])) = (halves(body, order), words(body, order)) else {
            return Err(Reason::BlockLength((body.len() + AROUND) as u32));
        };
        let mut name = None;
        let mut resolution = None;
        let mut offset = 0;
        for (code, value) in Options::new(&body[FIXED_LEN..], order) {
            // Unlike those of a packet, these cannot be done without: times would be wrong in silence.
            let value = value.ok_or(Reason::InterfaceOption(code))?;
            match code {
                IF_NAME => name = Some(readable(value)),
                IF_TSRESOL => resolution = Some(fixed::<1>(code, value)?[0]),
                IF_TSOFFSET => {
                    let bytes = fixed(code, value)?;
                    offset = match order {
                        Endianness::Big => i64::from_be_bytes(bytes),
                        Endianness::Little => i64::from_le_bytes(bytes),
                    };
                }
                _ => {}
            }
        }
        let clock = match (resolution, offset) {
            (None, 0) => Clock::MICROSECONDS,
            (resolution, offset) => Clock::new(resolution.unwrap_or(6), offset),
        };
        let number = u32::from(link_type);
        Ok(Self { link_type: LinkType::of(number).ok_or(number), snaplen, clock, name })
    }
}

fn fixed<const N: usize>(code: u16, value: &[u8]) -> Result<[u8; N], Reason> {
    value.try_into().map_err(|_| Reason::InterfaceOption(code))
}

/// A name that can be shown. The format wants UTF-8 with no zero at its end; not every writer keeps to it.
fn readable(name: &[u8]) -> Box<str> {
    let name = &name[..name.len().min(NAME_LEN_MAX)];
    let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
    String::from_utf8_lossy(&name[..end]).into()
}

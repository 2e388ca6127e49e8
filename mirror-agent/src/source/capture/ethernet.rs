//! Makes packets of other link types Ethernet frames, by putting an Ethernet header in place of theirs.

use std::fmt;

use arrayvec::ArrayVec;
use mirror_common::{ethernet, record::Direction};
use pcap_file::Endianness;

use super::{
    Packet, Record,
    cooked::{self, Cooked},
    link_type::{self, LinkType},
};

/// Receiver of a frame whose packet came with no Ethernet header: a locally administered address.
pub const SYNTHETIC_DESTINATION: MacAddress = [2, 0, 0, 0, 0, 2];

/// Sender of a frame whose packet came with neither an Ethernet header nor the sender's address: a locally
/// administered address.
pub const SYNTHETIC_SOURCE: MacAddress = [2, 0, 0, 0, 0, 1];

/// An Ethernet address, in the order of the wire.
pub type MacAddress = [u8; 6];

/// Bytes of an Ethernet header.
pub const PREFIX_LEN: usize = ethernet::HEADER_LEN as usize;

/// Bytes of the address family in front of BSD loopback packets.
const FAMILY_LEN: usize = 4;

/// An Ethernet frame in up to two parts, one behind the other.
#[derive(Clone, Debug)]
pub struct EthernetFrame<'a> {
    /// The Ethernet header that was put in front; empty where the packet has its own.
    pub prefix: ArrayVec<u8, PREFIX_LEN>,
    /// The captured bytes from there on.
    pub rest: &'a [u8],
}

impl EthernetFrame<'_> {
    /// Bytes of both parts.
    #[must_use]
    pub fn captured_len(&self) -> usize {
        self.prefix.len() + self.rest.len()
    }
}

/// Why a packet cannot be an Ethernet frame. The capture is not damaged, and the next packet may be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unplayable {
    /// No bytes were captured.
    Empty,
    /// The capture cut it inside the header that its link type has.
    TooShort {
        /// Bytes captured.
        captured: u32,
        /// Bytes of the header.
        header: u32,
    },
    /// A raw IP packet whose version is neither 4 nor 6.
    IpVersion(u8),
    /// An address family of BSD loopback that is neither of IPv4's nor IPv6's.
    UnknownFamily(u32),
    /// A protocol of Linux cooked packets that no Ethernet frame carries.
    ProtocolWithoutEthertype(u16),
    /// A hardware type (ARPHRD) of Linux cooked packets whose packets Ethernet does not carry.
    HardwareWithoutEthertype(u16),
    /// An IEEE 802.3 frame of more bytes than its length field can tell.
    TooLongForLength(u32),
    /// A packet of an interface whose link type this is; the other interfaces' are played.
    LinkType(u32),
}

impl fmt::Display for Unplayable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("no bytes were captured"),
            Self::TooShort { captured, header } => {
                write!(f, "only {captured} bytes were captured of a header of {header}")
            }
            Self::IpVersion(version) => write!(f, "IP version {version} is neither 4 nor 6"),
            Self::LinkType(number) => link_type::write_unsupported(f, *number),
            Self::UnknownFamily(family) => write!(f, "address family {family} is neither of IPv4 nor IPv6"),
            Self::ProtocolWithoutEthertype(protocol) => {
                write!(f, "protocol {protocol:#06x} has no Ethernet type")
            }
            Self::HardwareWithoutEthertype(hardware) => {
                write!(f, "packets of hardware type {hardware} have no Ethernet type")
            }
            Self::TooLongForLength(len) => {
                write!(f, "{len} bytes are too many for an IEEE 802.3 frame with a length field")
            }
        }
    }
}

/// A frame, what was taken off the packet for it, and which way the link header says it went.
struct Made<'a> {
    frame: EthernetFrame<'a>,
    taken_off: usize,
    direction: Option<Direction>,
}

/// The packet that a record holds; `data` are its captured bytes.
#[inline]
pub(super) fn packet<'a>(record: &Record, data: &'a [u8]) -> Packet<'a> {
    let mut packet = Packet {
        position: record.position,
        interface: record.interface,
        time_ns: record.time_ns,
        direction: record.direction,
        original_len: record.original_len,
        frame: Err(Unplayable::Empty),
    };
    if data.is_empty() {
        return packet;
    }
    packet.frame = match made(record, data) {
        Ok(made) => {
            packet.direction = packet.direction.or(made.direction);
            // The original is no shorter than what was captured, of which this was taken off.
            let len =
                (record.original_len - made.taken_off as u32).saturating_add(made.frame.prefix.len() as u32);
            packet.original_len = len;
            Ok(made.frame)
        }
        Err(unplayable) => Err(unplayable),
    };
    packet
}

#[inline]
fn made<'a>(record: &Record, data: &'a [u8]) -> Result<Made<'a>, Unplayable> {
    let link_type = record.link_type.map_err(Unplayable::LinkType)?;
    let ethertype = match link_type {
        LinkType::Ethernet => {
            let rest = split(data, PREFIX_LEN).map(|_| data)?;
            let frame = EthernetFrame { prefix: ArrayVec::new(), rest };
            return Ok(Made { frame, taken_off: 0, direction: None });
        }
        LinkType::Cooked => return cooked(record, Cooked::read(data)?),
        LinkType::Cooked2 => return cooked(record, Cooked::read_2(data)?),
        LinkType::Null | LinkType::Loop => return loopback(link_type, record.order, data),
        LinkType::Ipv4 => ethernet::IPV4,
        LinkType::Ipv6 => ethernet::IPV6,
        LinkType::Ip => match data.first().map(|byte| byte >> 4) {
            Some(4) => ethernet::IPV4,
            Some(6) => ethernet::IPV6,
            version => return Err(Unplayable::IpVersion(version.unwrap_or(0))),
        },
    };
    let frame =
        EthernetFrame { prefix: header(SYNTHETIC_DESTINATION, SYNTHETIC_SOURCE, ethertype), rest: data };
    Ok(Made { frame, taken_off: 0, direction: None })
}

fn cooked<'a>(record: &Record, cooked: Cooked<'a>) -> Result<Made<'a>, Unplayable> {
    let ethertype = cooked.ethertype(record.original_len - cooked.header_len as u32)?;
    let destination = if cooked.is_broadcast() { cooked::BROADCAST } else { SYNTHETIC_DESTINATION };
    let prefix = header(destination, cooked.source.unwrap_or(SYNTHETIC_SOURCE), ethertype);
    Ok(Made {
        frame: EthernetFrame { prefix, rest: cooked.payload },
        taken_off: cooked.header_len,
        direction: Some(cooked.direction()),
    })
}

/// BSD loopback. The family of IPv4 is 2 everywhere; that of IPv6 differs.
fn loopback(link_type: LinkType, order: Endianness, data: &[u8]) -> Result<Made<'_>, Unplayable> {
    let (family, rest) = split(data, FAMILY_LEN)?;
    // `split` has given 4 bytes.
    let family = family.first_chunk().map_or(0, |bytes| match (link_type, order) {
        (LinkType::Null, Endianness::Little) => u32::from_le_bytes(*bytes),
        _ => u32::from_be_bytes(*bytes),
    });
    // Captures are merged and converted on other machines, and the family stays as it was.
    let family = if link_type == LinkType::Null && family > 0xffff { family.swap_bytes() } else { family };
    let ethertype = match family {
        2 => ethernet::IPV4,
        // Linux; NetBSD and OpenBSD; FreeBSD; macOS.
        10 | 24 | 28 | 30 => ethernet::IPV6,
        other => return Err(Unplayable::UnknownFamily(other)),
    };
    let frame = EthernetFrame { prefix: header(SYNTHETIC_DESTINATION, SYNTHETIC_SOURCE, ethertype), rest };
    Ok(Made { frame, taken_off: FAMILY_LEN, direction: None })
}

/// Parts a header of `len` bytes from what follows.
#[inline]
pub(super) fn split(data: &[u8], len: usize) -> Result<(&[u8], &[u8]), Unplayable> {
    // Both far below 2^32.
    data.split_at_checked(len).ok_or(Unplayable::TooShort { captured: data.len() as u32, header: len as u32 })
}

fn header(destination: MacAddress, source: MacAddress, ethertype: u16) -> ArrayVec<u8, PREFIX_LEN> {
    let mut bytes = [0; PREFIX_LEN];
    bytes[..6].copy_from_slice(&destination);
    bytes[6..12].copy_from_slice(&source);
    bytes[12..].copy_from_slice(&ethertype.to_be_bytes());
    ArrayVec::from(bytes)
}

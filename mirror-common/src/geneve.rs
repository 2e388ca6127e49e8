//! The GENEVE header, RFC 8926 section 3.4, and the option that tells a recorder of the frame inside: docs/geneve.md.
//!
//! ```text
//! |Ver|  Opt Len  |O|C|    Rsvd.  |          Protocol Type        |
//! |        Virtual Network Identifier (VNI)       |    Reserved   |
//! ~                    Variable-Length Options                    ~
//! ```
//!
//! The option, all of it in network order:
//!
//! ```text
//! |         Class 0xff4d          |   Type 0x01   |0 0 0| Length 4|
//! |        Time of capture: nanoseconds since 1970 (64 bits)      |
//! |                                                               |
//! |   Direction   |        Bytes of the frame on the wire         |
//! |                     Number of the interface                   |
//! ```

use crate::{
    record::{DIRECTION_UNKNOWN, Direction},
    vxlan::VNI_MAX,
};

/// Bytes of the header with no options.
pub const BASE_LEN: usize = 8;

/// UDP destination port that IANA assigned to GENEVE.
pub const PORT: u16 = 6081;

/// Bytes of the option, its own header included.
pub const OPTION_LEN: usize = 20;

/// Class of the option: one of those for experiments (RFC 8926 section 7).
pub const OPTION_CLASS: u16 = 0xff4d;

/// Type of the option. Its highest bit, which would make the option critical, is not set: who does not know it skips
/// it.
pub const OPTION_TYPE: u8 = 0x01;

/// Protocol type of an Ethernet frame: Transparent Ethernet Bridging.
const ETHERNET: u16 = 0x6558;

/// Version, in the first byte; there is only 0.
const VERSION: u8 = 0xc0;
/// Words of options, in the first byte.
const OPTIONS_LEN: u8 = 0x3f;
/// 'Control packet', in the second byte.
const CONTROL: u8 = 0x80;
/// 'Critical', in an option's type.
const CRITICAL: u8 = 0x80;
/// Words of data behind an option's header, in its last byte.
const OPTION_WORDS: u8 = 0x1f;

/// What the option tells of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// When it was captured: nanoseconds since 1970-01-01 00:00:00 UTC; 0 is not known.
    pub time_ns: u64,
    /// Bytes that it had on the wire, at most [`WIRE_LEN_MAX`]; 0 is not known.
    pub wire_len: u32,
    /// [`Direction`] as a number, or [`DIRECTION_UNKNOWN`].
    pub direction: u16,
    /// Number of its interface; 0 is not known.
    pub ifindex: u32,
}

/// The longest frame that the option tells the length of: 24 bits.
pub const WIRE_LEN_MAX: u32 = 0x00ff_ffff;

impl Metadata {
    /// Nothing is known.
    pub const UNKNOWN: Self = Self { time_ns: 0, wire_len: 0, direction: DIRECTION_UNKNOWN, ifindex: 0 };

    /// The third and the fourth word of the option, in host order.
    #[inline(always)]
    #[must_use]
    pub const fn words(&self) -> [u32; 2] {
        let wire_len = if self.wire_len > WIRE_LEN_MAX { WIRE_LEN_MAX } else { self.wire_len };
        [(self.direction as u32) << 24 | wire_len, self.ifindex]
    }

    /// The option in wire order.
    #[must_use]
    pub fn option(&self) -> [u8; OPTION_LEN] {
        let mut option = [0; OPTION_LEN];
        option[..2].copy_from_slice(&OPTION_CLASS.to_be_bytes());
        option[2] = OPTION_TYPE;
        option[3] = (OPTION_LEN / 4 - 1) as u8;
        option[4..12].copy_from_slice(&self.time_ns.to_be_bytes());
        let [third, fourth] = self.words();
        option[12..16].copy_from_slice(&third.to_be_bytes());
        option[16..].copy_from_slice(&fourth.to_be_bytes());
        option
    }

    /// What the data of an option says; what a later version adds behind is not looked at. `None` where it is shorter
    /// than this version's.
    fn of_data(data: &[u8]) -> Option<Self> {
        let (words, _) = data.as_chunks::<4>();
        let &[high, low, third, ifindex] = words.first_chunk()?;
        let [high, low, third, ifindex] = [high, low, third, ifindex].map(u32::from_be_bytes);
        Some(Self {
            time_ns: u64::from(high) << 32 | u64::from(low),
            wire_len: third & WIRE_LEN_MAX,
            direction: match Direction::from_number((third >> 24) as u16) {
                Some(direction) => direction as u16,
                None => DIRECTION_UNKNOWN,
            },
            ifindex,
        })
    }
}

/// The header for `vni` in wire order, for `options_len` bytes of options, a multiple of 4 and at most 252, none of them
/// critical. Bits of `vni` above [`VNI_MAX`] are not sent.
#[must_use]
pub const fn header(vni: u32, options_len: usize) -> [u8; BASE_LEN] {
    let [_, high, middle, low] = vni.to_be_bytes();
    let [kind_high, kind_low] = ETHERNET.to_be_bytes();
    [(options_len / 4) as u8 & OPTIONS_LEN, 0, kind_high, kind_low, high, middle, low, 0]
}

/// What a UDP payload is to who takes GENEVE apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload<'a> {
    /// An Ethernet frame.
    Frame {
        /// Its network.
        vni: u32,
        /// What the option says, where it is there.
        metadata: Option<Metadata>,
        /// From the Ethernet header on.
        frame: &'a [u8],
    },
    /// A message between tunnel endpoints (the O bit): what is inside is no frame to forward.
    Control,
    /// What has to be dropped: it is cut, of another version, carries something else than Ethernet, its options do not
    /// add up, or one of them is critical and not known.
    Malformed,
}

/// Takes a UDP payload apart, by the rules for tunnel endpoints that look at options (RFC 8926 sections 3.4 and 3.5).
#[must_use]
pub fn decapsulate(payload: &[u8]) -> Payload<'_> {
    match split(payload) {
        Some(payload) => payload,
        None => Payload::Malformed,
    }
}

fn split(payload: &[u8]) -> Option<Payload<'_>> {
    let (&[first, second, kind_high, kind_low, high, middle, low, _], rest) = payload.split_first_chunk()?;
    if first & VERSION != 0 {
        return None;
    }
    let (mut options, frame) = rest.split_at_checked(usize::from(first & OPTIONS_LEN) * 4)?;
    let mut metadata = None;
    while !options.is_empty() {
        let (&[class_high, class_low, kind, length], behind) = options.split_first_chunk()?;
        let (data, behind) = behind.split_at_checked(usize::from(length & OPTION_WORDS) * 4)?;
        let is_ours = u16::from_be_bytes([class_high, class_low]) == OPTION_CLASS && kind == OPTION_TYPE;
        if is_ours {
            metadata = metadata.or(Metadata::of_data(data));
        } else if kind & CRITICAL != 0 {
            return None;
        }
        options = behind;
    }
    if second & CONTROL != 0 {
        return Some(Payload::Control);
    }
    if u16::from_be_bytes([kind_high, kind_low]) != ETHERNET {
        return None;
    }
    let vni = u32::from_be_bytes([0, high, middle, low]);
    debug_assert!(vni <= VNI_MAX);
    Some(Payload::Frame { vni, metadata, frame })
}

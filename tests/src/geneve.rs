//! GENEVE, RFC 8926 section 3.4, and the agent's option as docs/geneve.md has it, written apart from the agent's.

/// The UDP port that IANA assigned.
pub const PORT: u16 = 6081;
/// Where a second sensor of a host has it.
pub const OTHER_PORT: u16 = 6082;
/// Bytes between UDP and the frame: the header and the option.
pub const HEADERS_LEN: usize = 28;

/// What the agent's option says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    /// Nanoseconds since 1970.
    pub time: u64,
    pub wire_len: u32,
    /// 0 received, 1 sent, 2 not known.
    pub direction: u8,
    pub interface: u32,
}

/// The VNI, what the option says, and the frame in a UDP payload; `None` where it is no Ethernet in GENEVE, or has other
/// options than that one.
///
/// # Panics
/// Where a header is cut.
#[must_use]
pub fn open(payload: &[u8]) -> Option<(u32, Option<Told>, &[u8])> {
    let word = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
    if payload.len() < 8 || payload[1..4] != [0, 0x65, 0x58] || payload[7] != 0 {
        return None;
    }
    let vni = word(4) >> 8;
    match payload[0] {
        0 => Some((vni, None, &payload[8..])),
        5 if word(8) == 0xff4d_0104 => {
            let told = Told {
                time: u64::from(word(12)) << 32 | u64::from(word(16)),
                wire_len: word(20) & 0xff_ffff,
                direction: payload[20],
                interface: word(24),
            };
            Some((vni, Some(told), &payload[HEADERS_LEN..]))
        }
        _ => None,
    }
}

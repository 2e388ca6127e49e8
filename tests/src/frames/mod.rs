//! Crafted frames, made from nothing but their number: `write(i)` is the same bytes wherever it is called,
//! so a receiver compares what it got with what was sent without keeping a million frames.
//!
//! Every frame ends with its number (64 bits, big-endian). They are 60 to 1514 bytes long and take turns
//! through [`Kind`]: both directions of many connections, VLAN tags, extension headers, fragments, other
//! ethertypes and broken headers. No destination MAC is that of a test host, so stacks ignore them.

pub mod checksum;
mod headers;
mod kind;

pub use kind::{Kind, TURNS};

use headers::Frame;

/// Shortest frame: an Ethernet frame without its checksum.
pub const SHORTEST: usize = 60;
/// Longest frame, with tags: 1500 bytes behind an untagged Ethernet header.
pub const LONGEST: usize = 1514;
/// Connections of each kind.
pub const CONNECTIONS: u64 = 256;

/// What a receiver may expect to be kept together: frames of one flow arrive in order and from one port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Flow(u64);

/// What frame number `index` is, before its bytes are made.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub index: u64,
    pub kind: Kind,
    /// Its size in bytes, unless the headers need more.
    pub size: usize,
    /// Which connection of its kind, below [`CONNECTIONS`]; of fragments: which datagram.
    pub connection: u64,
    /// From the server to the client.
    pub reply: bool,
}

impl Plan {
    /// The plan of frame number `index`.
    #[must_use]
    pub fn of(index: u64) -> Self {
        let turn = index / TURNS.len() as u64;
        let kind = TURNS[(index % TURNS.len() as u64) as usize];
        let random = mix(index);
        let size = match random >> 48 & 0x3f {
            0 => SHORTEST,
            1 => LONGEST,
            _ => SHORTEST + (random as u32 as usize) % (LONGEST - SHORTEST + 1),
        };
        // The fragments of one datagram follow each other in one turn, and have to agree.
        let shared = if kind.is_fragment() { mix(turn) } else { random };
        let connection = if kind.is_fragment() { turn } else { (shared >> 32) % CONNECTIONS };
        Self { index, kind, size, connection, reply: shared >> 40 & 1 == 1 }
    }

    /// The flow that the frame belongs to; `None` where its headers are broken, and any will do.
    #[must_use]
    pub fn flow(&self) -> Option<Flow> {
        let kind = self.kind.flow_kind()?;
        Some(Flow((kind as u64) << 56 | self.connection))
    }

    /// Writes the frame's bytes into `out`, over what was there.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.clear();
        kind::write(self, &mut Frame::new(out));
    }
}

/// Writes frame number `index` into `out`, over what was there.
pub fn write(index: u64, out: &mut Vec<u8>) {
    Plan::of(index).write(out);
}

/// Frame number `index`.
#[must_use]
pub fn frame(index: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(LONGEST);
    write(index, &mut bytes);
    bytes
}

/// The number at the end of a frame; `None` where it is too short to have one.
#[must_use]
pub fn index_of(frame: &[u8]) -> Option<u64> {
    frame.last_chunk().map(|number| u64::from_be_bytes(*number))
}

/// A number that looks random and is always the same for `index` (splitmix64).
fn mix(index: u64) -> u64 {
    let mut z = index.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests;

//! Sampling: one flow in so many, and always the same ones.
//!
//! A flow is drawn by a number of its own, which its hash and a key give. The hash alone would not do: its bits decide
//! the ring, the outer source port, and which sensor of a pool a flow goes to. Were a flow chosen by some of them,
//! those that are chosen would agree in them, and share a few rings, ports and sensors; and whoever asks for another
//! choice could not have one. Mixed with a key, each bit of the draw depends on all bits of both.

use crate::flow::{GOLDEN, mix};

/// What a key is for: flows are not to be drawn for one thing by what they were drawn for in another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Purpose {
    /// Which flows are mirrored.
    Sample = 1,
    /// Which flows come first where there is not room for all.
    Rank = 2,
}

/// The key that a seed gives. Seeds next to each other give keys that have nothing to do with each other.
#[must_use]
pub const fn key(seed: u64, purpose: Purpose) -> u64 {
    mix(seed.wrapping_add((purpose as u64).wrapping_mul(GOLDEN)))
}

/// A flow's number, the same wherever the key is the same: evenly from 0 to `u32::MAX`.
#[inline(always)]
#[must_use]
pub const fn draw(flow_hash: u32, key: u64) -> u32 {
    (mix(key ^ (flow_hash as u64).wrapping_mul(GOLDEN)) >> 32) as u32
}

/// The greatest draw of one flow in `n`; with 0, as with 1, that of all. Fewer flows are always some of more: who
/// has one in 16 has them among the one in 8.
#[must_use]
pub const fn greatest_draw(n: u32) -> u32 {
    match n {
        0 => u32::MAX,
        // 2^32 / n, rounded to the nearest, less one; from 2 on it fits.
        n => (((1_u64 << 32) + n as u64 / 2) / n as u64 - 1) as u32,
    }
}

//! What the hooks count, per processor, for each interface and direction.

use crate::record::Direction;

/// Frames that one hook saw and what became of them in the kernel. What is left of `seen` when the
/// others are taken away lies in a ring: the agent counts it on. In redirect mode nothing is left.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HookCounters {
    /// Frames that the hook was called for.
    pub seen: u64,
    /// Bytes of those frames, VLAN tags included.
    pub bytes: u64,
    /// Frames that the filter refused.
    pub filtered: u64,
    /// The agent's own datagrams, and ICMP errors that quote them.
    pub own: u64,
    /// Frames of flows that sampling leaves out.
    pub sampled_out: u64,
    /// Frames for which the budget had no room.
    pub rate_limited: u64,
    /// Frames for which the ring had no room.
    pub ring_full: u64,
    /// Frames whose bytes the kernel could not read.
    pub copy_failed: u64,
    /// Frames longer than a datagram or a record can carry.
    pub too_big: u64,
    /// In redirect mode, frames that were sent.
    pub sent: u64,
    /// In redirect mode, frames of which at least a part could not be sent.
    pub send_failed: u64,
    /// Sent frames that were cut.
    pub truncated: u64,
    /// Datagrams that were sent.
    pub datagrams: u64,
    /// Their UDP payload.
    pub payload: u64,
    /// Frames on the wire that were sent, where each goes to several sensors; else they are as many as the datagrams.
    pub segments: u64,
}

impl HookCounters {
    /// Both together.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            seen: self.seen + other.seen,
            bytes: self.bytes + other.bytes,
            filtered: self.filtered + other.filtered,
            own: self.own + other.own,
            sampled_out: self.sampled_out + other.sampled_out,
            rate_limited: self.rate_limited + other.rate_limited,
            ring_full: self.ring_full + other.ring_full,
            copy_failed: self.copy_failed + other.copy_failed,
            too_big: self.too_big + other.too_big,
            sent: self.sent + other.sent,
            send_failed: self.send_failed + other.send_failed,
            truncated: self.truncated + other.truncated,
            datagrams: self.datagrams + other.datagrams,
            payload: self.payload + other.payload,
            segments: self.segments + other.segments,
        }
    }

    /// What came to be counted since `earlier`.
    #[must_use]
    pub const fn minus(self, earlier: Self) -> Self {
        Self {
            seen: self.seen.saturating_sub(earlier.seen),
            bytes: self.bytes.saturating_sub(earlier.bytes),
            filtered: self.filtered.saturating_sub(earlier.filtered),
            own: self.own.saturating_sub(earlier.own),
            sampled_out: self.sampled_out.saturating_sub(earlier.sampled_out),
            rate_limited: self.rate_limited.saturating_sub(earlier.rate_limited),
            ring_full: self.ring_full.saturating_sub(earlier.ring_full),
            copy_failed: self.copy_failed.saturating_sub(earlier.copy_failed),
            too_big: self.too_big.saturating_sub(earlier.too_big),
            sent: self.sent.saturating_sub(earlier.sent),
            send_failed: self.send_failed.saturating_sub(earlier.send_failed),
            truncated: self.truncated.saturating_sub(earlier.truncated),
            datagrams: self.datagrams.saturating_sub(earlier.datagrams),
            payload: self.payload.saturating_sub(earlier.payload),
            segments: self.segments.saturating_sub(earlier.segments),
        }
    }
}

/// The counters' place in their map: one per interface and direction.
#[inline(always)]
#[must_use]
pub const fn key(ifindex: u32, direction: Direction) -> u32 {
    // The kernel's interface numbers are positive 32-bit signed integers: the shift loses nothing.
    ifindex << 1 | direction as u32
}

/// Places in the map of counters that are found without a search.
pub const NEAR: u32 = 256;

/// Counters in such a place, and whose they are: the interface and direction that came first of those which share it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct NearCounters {
    /// [`key`] of whose they are; 0 is nobody's.
    pub key: u32,
    /// 0.
    pub padding: u32,
    /// What is counted.
    pub counters: HookCounters,
}

/// The place of an interface and direction, below [`NEAR`].
#[inline(always)]
#[must_use]
pub const fn near(key: u32) -> u32 {
    key % NEAR
}

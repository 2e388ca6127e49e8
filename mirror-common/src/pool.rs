//! Which of several sensors a flow goes to.
//!
//! Flows fall into buckets by their hash, and user space says of each bucket which sensor has it, so that the choice
//! costs one look-up in a small table, in the kernel programs as well as in the agent.

use crate::flow;

/// Sensors at most.
pub const DESTINATIONS_MAX: usize = 64;

/// Buckets. As many as make chance small: over 4 sensors a share differs from the ideal one by 1.4 % (one standard
/// deviation). A table of bytes stays in the first-level cache's company.
pub const BUCKETS: usize = 1 << 14;

/// The bucket of a flow, below [`BUCKETS`]. The bits that choose the ring and the outer source port say nothing about
/// it.
#[inline(always)]
#[must_use]
pub const fn bucket(flow_hash: u32) -> usize {
    // The hash's lowest bits choose the port: mixed again, so that each bit of the hash reaches each of the bucket.
    (flow::mix(flow_hash as u64 ^ SALT) >> (u64::BITS - BUCKETS.trailing_zeros())) as usize
}

/// Sets this use of the hash apart from others that mix it.
const SALT: u64 = 0x706f_6f6c_0000_0000;

/// What the kernel programs are told.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    /// One bit for each sensor that is sent to, of those that get every frame.
    pub members: u64,
    /// The sensor's number, by bucket.
    pub buckets: [u8; BUCKETS],
}

/// What the kernel programs sent to one sensor, on one processor.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Datagrams that were sent.
    pub datagrams: u64,
    /// Their UDP payload in bytes.
    pub payload: u64,
    /// Frames that could not be sent.
    pub failed: u64,
}

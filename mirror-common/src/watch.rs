//! Redirect mode: what user space and the hooks tell each other while somebody watches the flows.

/// Bytes kept of a frame that is looked at.
pub const PREFIX: u32 = 128;

/// Bytes of the ring that such frames go to.
pub const RING_SIZE: u32 = 256 << 10;

/// Shared memory.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Watch {
    /// One frame in so many is looked at, a power of two; 0 where none is.
    pub one_in: u32,
    /// 0.
    pub reserved: u32,
    /// Frames that were to be looked at and for which the ring had no room.
    pub missed: u64,
}

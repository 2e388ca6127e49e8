//! A frame as it lies in a ring: this header, then the frame's bytes.

/// Which way a frame crossed the interface.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Received by the host.
    Ingress = 0,
    /// Sent by the host.
    Egress = 1,
}

impl Direction {
    /// Both, in the order of their numbers.
    pub const ALL: [Self; 2] = [Self::Ingress, Self::Egress];

    /// The direction with this number, or `None`.
    #[inline(always)]
    #[must_use]
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::Ingress),
            1 => Some(Self::Egress),
            _ => None,
        }
    }
}

/// Stands for a [`Direction`] in a [`RecordHeader`] where none is known, as in most captures.
pub const DIRECTION_UNKNOWN: u32 = 2;

/// What stands in front of each frame in a ring. All integers in host order.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordHeader {
    /// `CLOCK_MONOTONIC` at capture in nanoseconds; 0 where nobody asked for it
    /// ([`Settings::time_stamps`](crate::settings::Settings::time_stamps)). In a replay: since 1970.
    pub time_ns: u64,
    /// The interface's number. In a replay: its number among those of all captures.
    pub ifindex: u32,
    /// [`Direction`] as a number, or [`DIRECTION_UNKNOWN`].
    pub direction: u32,
    /// [`flow::hash`](crate::flow::hash).
    pub flow_hash: u32,
    /// Bytes of the frame that follow this header. The record may be longer: see [`SIZE_CLASSES`].
    pub captured_len: u32,
    /// Bytes of the frame as it was on the wire, its VLAN tag included.
    pub original_len: u32,
    /// Keeps the frame that follows aligned to 8 bytes; 0.
    pub reserved: u32,
}

/// Bytes of a [`RecordHeader`].
pub const HEADER_LEN: usize = size_of::<RecordHeader>();

/// Room for frame bytes in a record, ascending. The kernel reserves ring space in sizes that the
/// verifier knows, so a frame takes the smallest class that holds it. The classes below an Ethernet
/// frame's 1514 bytes matter for speed, those above are for jumbo frames and super-frames.
pub const SIZE_CLASSES: [usize; 12] =
    [64, 128, 256, 512, 1024, 1536, 2048, 4096, 9216, 16384, 32768, FRAME_MAX];

/// The longest frame that a record holds: a super-frame of 65,535 bytes of IP with its Ethernet header
/// and VLAN tags, rounded up to 8.
pub const FRAME_MAX: usize = 65_568;

/// Rings at most. More threads than this do not send faster than a network takes.
pub const RINGS_MAX: usize = 16;

/// What a reader and the hooks tell each other about a ring. One cache line each, so that rings do not
/// slow each other.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug)]
pub struct Doorbell {
    /// 1 while the reader sleeps and wants to be woken by the next record. The hook that rings sets it
    /// back to 0.
    pub armed: u32,
    /// Fills the cache line.
    pub reserved: [u32; 15],
}

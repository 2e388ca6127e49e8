//! What user space and the transmitting program tell each other.

/// Packets at most in one run of the program.
pub const SLOTS: usize = 64;

/// Bytes of the longest packet, Ethernet header included.
pub const PACKET_MAX: usize = 2040;

/// A packet that waits, in memory that user space shares with the program. All integers in host order.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    /// Bytes of the packet, from its Ethernet header on: 14 to [`PACKET_MAX`].
    pub length: u32,
    /// Why it was not sent, where it was not: what `bpf_clone_redirect` returned. Below 0 an errno, above 0 the
    /// queue's answer (`NET_XMIT_DROP`, `NET_XMIT_CN` in include/linux/netdevice.h).
    /// User space sets it to [`UNSENT`], the program to 0 where it was.
    pub result: i32,
    /// The packet, and then anything.
    pub packet: [u8; PACKET_MAX],
}

/// A [`Slot::result`]: the program did not come to it.
pub const UNSENT: i32 = i32::MIN;

const _: () = assert!(size_of::<Slot>() == 2048);

/// Where in `__sk_buff::cb` the program finds the number of the interface to send through.
pub const IFINDEX: usize = 0;
/// The same, for the first slot.
pub const FIRST: usize = 1;
/// The same, for the slot behind the last.
pub const END: usize = 2;

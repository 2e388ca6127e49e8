//! The user's filter. Its instructions are not known here: user space puts them in the place of these functions before
//! it loads the programs (`mirror-agent/src/kernel/filtered.rs` finds them by their names).
//!
//! What they do here only keeps the compiler from knowing what they return.

use aya_ebpf::bindings::{__sk_buff, xdp_md};

/// Not 0 where the frame is wanted.
#[inline(never)]
pub fn filter_skb(ctx: *mut __sk_buff) -> u64 {
    // SAFETY: the kernel hands every program a valid context; the verifier checks the access.
    u64::from(unsafe { (&raw const (*ctx).len).read_volatile() })
}

/// The same for XDP.
#[inline(never)]
pub fn filter_xdp(ctx: *mut xdp_md) -> u64 {
    // SAFETY: as above.
    u64::from(unsafe { (&raw const (*ctx).rx_queue_index).read_volatile() })
}

//! Redirect mode: shows user space some of the frames, while somebody watches the flows.

use core::arch::asm;

use aya_ebpf::helpers::generated::bpf_get_prandom_u32;
use mirror_common::{
    record::RecordHeader,
    watch::{PREFIX, Watch},
};

use crate::{maps::WATCH, ring, skb::Skb};

/// Puts a frame's beginning into the ring for it, if it is its turn. While nobody watches this is a load.
#[inline(always)]
pub fn look(skb: Skb, tag: u32, len: u32, flow_hash: u32) {
    let Some(watch) = WATCH.get_ptr_mut(0) else { return };
    // SAFETY: the array's value stays in place. Volatile, since user space writes it.
    let one_in = unsafe { (&raw const (*watch).one_in).read_volatile() };
    if one_in != 0 {
        keep(skb, tag, len, flow_hash, watch);
    }
}

#[inline(never)]
fn keep(skb: Skb, tag: u32, len: u32, flow_hash: u32, watch: *mut Watch) {
    // SAFETY: as above; the helper has no preconditions.
    let (one_in, random) = unsafe { ((&raw const (*watch).one_in).read_volatile(), bpf_get_prandom_u32()) };
    if random & one_in.wrapping_sub(1) != 0 {
        return;
    }
    let header = RecordHeader {
        // What the frame stands for.
        time_ns: u64::from(one_in),
        flow_hash,
        captured_len: len.min(PREFIX),
        original_len: len,
        ..RecordHeader::default()
    };
    if !ring::show(skb, tag, &header) {
        // SAFETY: as above, and the number is aligned. Several processors may add to it at once.
        unsafe {
            asm!("lock *(u64 *)({missed} + 0) += {one}", missed = in(reg) &raw mut (*watch).missed, one = in(reg) 1_u64);
        }
    }
}

//! Sends packets that user space has made, many in one run.
//!
//! User space runs it (`BPF_PROG_TEST_RUN`); it is attached nowhere. Packets that a socket sends are each followed
//! by the receiving half of a veth pair, on the same processor, at the price of a softirq of its own. While
//! a program runs softirqs wait, so that all of its packets share one.
#![no_std]
#![no_main]

#[path = "../runtime.rs"]
mod runtime;

use core::hint::black_box;

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_MMAPABLE},
    btf_maps::Array,
    helpers::generated::{bpf_clone_redirect, bpf_skb_change_tail, bpf_skb_store_bytes},
    macros::{btf_map, classifier},
    programs::TcContext,
};
use mirror_common::{
    ethernet,
    transmit::{END, FIRST, IFINDEX, PACKET_MAX, SLOTS, Slot},
};

/// The packets, mapped into the agent.
#[btf_map]
static PACKETS: Array<Slot, SLOTS, { BPF_F_MMAPABLE as usize }> = Array::new();

/// An errno of linux/errno.h.
const EINVAL: i32 = 22;

/// Sends the packets of the slots from [`FIRST`] to [`END`] until one cannot be sent. Their results tell.
#[classifier]
pub fn transmit(ctx: TcContext) -> i32 {
    let skb: *mut __sk_buff = ctx.skb.skb;
    // SAFETY: the kernel hands every program a valid context; the verifier checks the access.
    let (ifindex, first, end) = unsafe { ((*skb).cb[IFINDEX], (*skb).cb[FIRST], (*skb).cb[END]) };
    for step in 0..SLOTS as u32 {
        let index = first.wrapping_add(step);
        if index >= end {
            break;
        }
        let Some(slot) = PACKETS.get_ptr_mut(index) else { break };
        // SAFETY: the array's values stay in place, and user space does not touch them meanwhile.
        let slot = unsafe { &mut *slot };
        slot.result = send(skb, slot, ifindex);
        if slot.result != 0 {
            break;
        }
    }
    0
}

/// Makes the run's one socket buffer the packet, and sends a clone of it.
#[inline(always)]
fn send(skb: *mut __sk_buff, slot: &Slot, ifindex: u32) -> i32 {
    // In the form in which the verifier sees both bounds: see `checked_length` of the capturing programs.
    const LEAST: u32 = ethernet::HEADER_LEN;
    let beyond = black_box(slot.length.wrapping_sub(LEAST));
    if beyond > PACKET_MAX as u32 - LEAST {
        return -EINVAL;
    }
    let length = beyond + LEAST;
    // SAFETY: the context is valid; the packet has `length` bytes.
    unsafe {
        if (*skb).len != length {
            let result = bpf_skb_change_tail(skb, length, 0);
            if result != 0 {
                return result as i32;
            }
        }
        let result = bpf_skb_store_bytes(skb.cast(), 0, slot.packet.as_ptr().cast(), length, 0);
        if result != 0 {
            return result as i32;
        }
        bpf_clone_redirect(skb, ifindex, 0) as i32
    }
}

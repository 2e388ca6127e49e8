//! The kernel programs: hooks only. What can be shared with user space lives in mirror-common.
#![no_std]
#![no_main]
// For the one instruction that neither `core` nor LLVM offers on this target.
#![feature(asm_experimental_arch)]

mod capture;
mod classify;
mod datagram;
mod datagrams;
mod encapsulate;
mod maps;
mod offload;
mod own_traffic;
mod probe;
mod redirect;
mod ring;
mod runtime;
mod segmenter;
mod skb;

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_SHOT, TC_ACT_UNSPEC},
    macros::classifier,
    programs::TcContext,
};
use mirror_common::record::Direction;

/// Sees what the host receives, before its stack does.
#[classifier]
pub fn mirror_ingress(ctx: TcContext) -> i32 {
    look(&ctx, Direction::Ingress)
}

/// Sees what the host sends, before the queue discipline does.
#[classifier]
pub fn mirror_egress(ctx: TcContext) -> i32 {
    look(&ctx, Direction::Egress)
}

/// The verdict never depends on what became of the copy: 'unspecified' lets the next program on the hook
/// decide, whereas 'ok' would end the chain and keep other people's programs from running.
#[inline(always)]
fn look(ctx: &TcContext, direction: Direction) -> i32 {
    let skb: *mut __sk_buff = ctx.skb.skb;
    capture::capture(skb::Skb::new(skb), direction);
    TC_ACT_UNSPEC
}

/// Redirect mode, where datagrams leave: puts the outer headers in front of a frame's clone.
#[classifier]
pub fn mirror_encap(ctx: TcContext) -> i32 {
    encapsulate::encapsulate(skb::Skb::new(ctx.skb.skb))
}

/// Redirect mode, on the segmenter's way out: tells it where a clone is to go.
#[classifier]
pub fn mirror_segment(ctx: TcContext) -> i32 {
    segmenter::address(skb::Skb::new(ctx.skb.skb))
}

/// Redirect mode, on the segmenter's way in: nobody may put frames into this host by its port.
#[classifier]
pub fn mirror_refuse(_: TcContext) -> i32 {
    TC_ACT_SHOT as i32
}

//! The kernel programs: hooks only. What can be shared with user space lives in mirror-common.
#![no_std]
#![no_main]
// For the one instruction that neither `core` nor LLVM offers on this target.
#![feature(asm_experimental_arch)]

mod capture;
mod classify;
mod counters;
mod datagram;
mod datagrams;
mod encapsulate;
mod filter;
mod geneve;
mod maps;
mod offload;
mod own_traffic;
mod packet;
mod pool;
mod probe;
mod redirect;
mod ring;
mod runtime;
mod segmenter;
mod select;
mod skb;
mod watch;
mod xdp;

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action::XDP_PASS},
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use mirror_common::record::Direction;

/// Sees what the host receives, before its stack does.
#[classifier]
pub fn mirror_ingress(ctx: TcContext) -> i32 {
    look(&ctx, Direction::Ingress, false)
}

/// Sees what the host sends, before the queue discipline does.
#[classifier]
pub fn mirror_egress(ctx: TcContext) -> i32 {
    look(&ctx, Direction::Egress, false)
}

/// [`mirror_ingress`] in redirect mode, where the run ends after a number of frames. Apart from that one, because kernels
/// before 5.12 refuse a program with the instruction that counts them, whether or not it comes to it.
#[classifier]
pub fn mirror_ingr_lim(ctx: TcContext) -> i32 {
    look(&ctx, Direction::Ingress, true)
}

/// The same of [`mirror_egress`].
#[classifier]
pub fn mirror_egr_lim(ctx: TcContext) -> i32 {
    look(&ctx, Direction::Egress, true)
}

/// The verdict never depends on what became of the copy: 'unspecified' lets the next program on the hook
/// decide, whereas 'ok' would end the chain and keep other people's programs from running.
#[inline(always)]
fn look(ctx: &TcContext, direction: Direction, is_limited: bool) -> i32 {
    let skb: *mut __sk_buff = ctx.skb.skb;
    capture::capture(skb::Skb::new(skb), direction, is_limited);
    TC_ACT_UNSPEC
}

/// Sees what the host receives, in the driver, before there is a socket buffer. The verdict is always the same: the
/// frame goes on.
#[xdp]
pub fn mirror_xdp(ctx: XdpContext) -> u32 {
    xdp::capture(xdp::Buff::new(ctx.ctx), false);
    XDP_PASS
}

/// The same, where the driver may hand on frames in several pieces.
#[xdp(frags)]
pub fn mirror_xdp_frags(ctx: XdpContext) -> u32 {
    xdp::capture(xdp::Buff::new(ctx.ctx), false);
    XDP_PASS
}

/// The same, where the kernel shows the program a socket buffer, for want of a driver that runs it.
#[xdp]
pub fn mirror_xdp_skb(ctx: XdpContext) -> u32 {
    xdp::capture(xdp::Buff::new(ctx.ctx), true);
    XDP_PASS
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
    TC_ACT_SHOT
}

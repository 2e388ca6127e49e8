//! The kernel programs: hooks only. What can be shared with user space lives in mirror-common.
#![no_std]
#![no_main]

mod capture;
mod classify;
mod datagram;
mod maps;
mod offload;
mod own_traffic;
mod ring;
mod runtime;
mod skb;

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_UNSPEC},
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

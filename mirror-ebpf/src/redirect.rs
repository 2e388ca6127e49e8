//! Redirect mode, the hook's part: sends a clone of a frame on its way, and counts what became of it.
//!
//! All of it happens within the hook's run, on its processor: `bpf_clone_redirect` returns when the clone has
//! passed the programs of [`crate::encapsulate`] and [`crate::segmenter`] and is with the card, or its queue.

use core::arch::asm;

use aya_ebpf::helpers::{bpf_ktime_get_ns, generated::bpf_clone_redirect};
use mirror_common::{
    bytes::Bytes as _,
    counters::HookCounters,
    headers::Headers,
    ip,
    record::{Direction, Segmentation},
    redirect::{Handoff, Made, TO_TUNNEL_V4, TO_TUNNEL_V6, Template, place, stage},
    settings::{family, oversize},
    udp,
};

use crate::{
    maps::{CLOCK, CURRENT, ERRORS, FAN, HANDOFF, LEFT, TEMPLATE, VNIS, setting},
    pool,
    probe::is_probe,
    skb::Skb,
};

/// An errno of linux/errno.h: the encapsulating program is not where it should be.
const ENODEV: u32 = 19;
/// There is no way to the sensor.
const ENETUNREACH: u32 = 101;
/// The queue did not take the packet (`NET_XMIT_DROP`), or dropped one (`NET_XMIT_CN`): this one, as a queue does that is
/// not started yet, or another of the same flow.
pub const ENOBUFS: u32 = 105;
/// Nothing of a frame came out of the kernel's stack, which does not say why: no neighbour, a packet filter.
const EHOSTUNREACH: u32 = 113;

/// What the hook knows of a frame.
pub struct Traits {
    pub flow_hash: u32,
    /// Bytes of the frame on the wire, or of the longest segment that it is to be cut into; 0 where that is not known.
    pub longest: u32,
    /// Whether the kernel's stack has something left to do: cut it, complete it, or put its tag back.
    pub needs_stack: bool,
    pub segmentation: Segmentation,
    pub ifindex: u32,
    pub direction: Direction,
    /// Whether its VLAN tag is in the metadata.
    pub is_tagged: bool,
    /// What [`time_of_day`] said: every sensor is told the same.
    pub time_ns: u64,
}

/// What the hook meets where datagrams leave through an interface that is mirrored too.
pub enum Met {
    /// Any frame, or a datagram that is complete.
    Frame,
    /// A frame's clone, which the encapsulating program meets next: a datagram, but for the headers.
    Clone,
    /// A probe, or a datagram of the segmenter's that the encapsulating program sends anew: neither leaves.
    Unfinished,
}

/// Tells them apart.
#[inline(always)]
pub fn meet(skb: Skb, is_marked: bool) -> Met {
    let Some(handoff) = HANDOFF.get_ptr(0) else { return Met::Frame };
    // SAFETY: this processor's own value.
    let (stage, len) = unsafe { ((*handoff).stage, (*handoff).len) };
    match stage {
        stage::STRAIGHT if len == skb.len() => Met::Clone,
        stage::DATAGRAMS if is_marked => Met::Unfinished,
        stage::IDLE if is_marked && is_probe(skb) != 0 => Met::Unfinished,
        _ => Met::Frame,
    }
}

/// Whether a sensor has an IPv6 address, of which `is_v6` says so where not all are of one kind.
#[inline(always)]
pub fn is_v6(is_v6: impl FnOnce() -> bool) -> bool {
    match setting!(redirect.family) {
        family::V4 => false,
        family::V6 => true,
        _ => is_v6(),
    }
}

/// Bytes of all outer headers, from Ethernet on.
#[inline(always)]
pub fn headers_len(is_v6: bool) -> u32 {
    let to_tunnel = if is_v6 { TO_TUNNEL_V6 } else { TO_TUNNEL_V4 };
    to_tunnel + setting!(redirect.tunnel_len)
}

/// The network of an interface.
#[inline(always)]
fn vni_of(ifindex: u32, template: &Template) -> u32 {
    if setting!(redirect.has_vnis) == 0 {
        return template.tunnel.id;
    }
    // SAFETY: the value stays in place while a program runs; user space removes it after the interface's hooks.
    VNIS.get_ptr(ifindex).map_or(template.tunnel.id, |vni| unsafe { *vni })
}

/// The time of day, in nanoseconds since 1970; 0 where headers do not tell.
#[inline(always)]
pub fn time_of_day() -> u64 {
    if setting!(redirect.has_metadata) == 0 {
        return 0;
    }
    let Some(since_epoch) = CLOCK.get_ptr(0) else { return 0 };
    // SAFETY: an aligned number, which user space replaces; the helper has no preconditions.
    unsafe { bpf_ktime_get_ns().wrapping_add_signed(since_epoch.read_volatile()) }
}

/// Bytes of the headers that the clone on its way lacks.
#[inline(always)]
pub fn missing_len() -> u32 {
    // SAFETY: this processor's own value.
    headers_len(is_v6(|| HANDOFF.get_ptr(0).is_some_and(|handoff| unsafe { (*handoff).is_v6 } != 0)))
}

/// The place of the template in use for a sensor.
#[inline(always)]
pub fn current(destination: u32) -> Option<u32> {
    CURRENT.get(destination).map(|turn| place(destination, *turn))
}

/// What became of a frame on its way to one sensor.
pub struct Outcome {
    /// Why it could not be sent: an errno, or 0.
    pub error: u32,
    /// 1 where it was left out for its length.
    pub is_too_big: u32,
    /// 1 where a part of it was sent.
    pub is_cut: u32,
    /// Datagrams that left.
    pub datagrams: u32,
    /// Their UDP payload.
    pub payload: u64,
}

impl Outcome {
    const NONE: Self = Self { error: 0, is_too_big: 0, is_cut: 0, datagrams: 0, payload: 0 };

    #[inline(always)]
    const fn failed(error: u32) -> Self {
        Self { error, ..Self::NONE }
    }
}

/// Counts the frame, once.
#[inline(always)]
pub fn book(counters: *mut HookCounters, outcome: &Outcome) {
    if outcome.error != 0 {
        return fail(counters, outcome.error);
    }
    // SAFETY: as in `send`.
    unsafe {
        if outcome.is_too_big != 0 {
            (*counters).too_big += 1;
        } else {
            (*counters).sent += 1;
            (*counters).truncated += u64::from(outcome.is_cut);
        }
    }
}

/// Bytes of the longest segment of a frame with these headers that is cut into `gso_size` bytes of payload each, without
/// its tag in the metadata; 0 where a tunnel is in between.
#[inline(always)]
pub fn segment_len(skb: Skb, headers: &Headers, gso_size: u16) -> u32 {
    let header = match headers.protocol {
        // The upper half of the byte at 12 has the header's length in words (RFC 9293 section 3.1).
        ip::TCP => u32::from(skb.byte(headers.at + 12).unwrap_or(0) >> 4) * 4,
        ip::UDP => udp::HEADER_LEN as u32,
        _ => return 0,
    };
    headers.at + header + u32::from(gso_size)
}

/// Takes a frame from what is left of a limited run. `false` where nothing is.
#[inline(always)]
pub fn take_from_limit() -> bool {
    let Some(left) = LEFT.get_ptr_mut(0) else { return false };
    let mut taken: i64 = -1;
    // SAFETY: the array's value stays in place, and is aligned. (The target has no atomic types in `core`; the kernel
    // has had this instruction since 5.12.)
    unsafe {
        asm!("{taken} = atomic_fetch_add((u64 *)({left} + 0), {taken})", left = in(reg) left, taken = inout(reg) taken);
    }
    taken > 0
}

/// Sends a clone of the frame, and counts. `counters` are those of this hook, on this processor: another run of it
/// may come in between, where the clone leaves through an interface that is mirrored as well.
#[inline(always)]
pub fn send(skb: Skb, traits: &Traits, counters: *mut HookCounters) {
    let Some(handoff) = HANDOFF.get_ptr_mut(0) else { return };
    // SAFETY: the pointer is to this processor's value, and hooks do not run at the same time on a processor.
    if unsafe { (*handoff).stage } == stage::IDLE {
        share_out(skb, traits, counters);
    } else {
        send_within(handoff, skb, traits, counters);
    }
}

/// For a frame that comes up while a clone is on its way, on the same processor: the host asks for a neighbour.
#[inline(never)]
fn send_within(handoff: *mut Handoff, skb: Skb, traits: &Traits, counters: *mut HookCounters) {
    // SAFETY: as in `send`.
    let outer = unsafe { *handoff };
    if setting!(redirect.is_fanout) != 0 {
        let Some(fan) = FAN.get_ptr_mut(0) else { return };
        // SAFETY: as above.
        let outer_fan = unsafe { *fan };
        share_out(skb, traits, counters);
        // SAFETY: as above.
        unsafe { fan.write(outer_fan) };
    } else {
        share_out(skb, traits, counters);
    }
    // SAFETY: as above.
    unsafe { handoff.write(outer) };
}

#[inline(always)]
fn share_out(skb: Skb, traits: &Traits, counters: *mut HookCounters) {
    if setting!(redirect.destinations) <= 1 {
        let outcome = send_to(skb, traits, counters, 0);
        book(counters, &outcome);
    } else if setting!(redirect.is_fanout) == 0 {
        pool::send_to_one(skb, traits, counters);
    } else {
        pool::send_to_all(skb, traits, counters);
    }
}

/// Sends a clone to one sensor, and counts its datagrams.
#[inline(always)]
pub fn send_to(skb: Skb, traits: &Traits, counters: *mut HookCounters, destination: u32) -> Outcome {
    let Some(handoff) = HANDOFF.get_ptr_mut(0) else { return Outcome::failed(ENETUNREACH) };
    let Some(current) = current(destination) else { return Outcome::failed(ENETUNREACH) };
    let Some(template) = TEMPLATE.get_ptr(current) else { return Outcome::failed(ENETUNREACH) };
    // SAFETY: the array's values stay in place, and user space does not write to the one in use.
    let template: &Template = unsafe { &*template };

    if template.ifindex == 0 {
        return Outcome::failed(ENETUNREACH);
    }
    let is_v6 = is_v6(|| template.is_v6 != 0);
    // Of the Ethernet header, which is no part of the IP packet.
    let room = template.packet_max.saturating_sub(headers_len(is_v6) - mirror_common::ethernet::HEADER_LEN);
    let is_cut = traits.segmentation != Segmentation::None;
    let mut kept = setting!(snaplen);
    let mut needs_stack = traits.needs_stack || template.is_known == 0;
    // What comes out of the segmenter is cut later, and over IPv6 none comes out that is too long.
    let is_cut_late = needs_stack && is_v6;
    let longest = if is_cut_late { traits.longest } else { traits.longest.min(kept) };
    if longest > room {
        match setting!(redirect.oversize) {
            oversize::TRUNCATE if needs_stack => {}
            oversize::TRUNCATE => kept = room,
            // VXLAN devices do not fragment over IPv6.
            oversize::FRAGMENT if !is_v6 => needs_stack = true,
            _ => return Outcome { is_too_big: 1, ..Outcome::NONE },
        }
    }
    let (stage, ifindex) = if needs_stack {
        (stage::SEGMENTER, template.segmenter)
    } else {
        (stage::STRAIGHT, template.ifindex)
    };
    let (has_vnis, has_metadata) = (setting!(redirect.has_vnis) != 0, setting!(redirect.has_metadata) != 0);
    // SAFETY: as in `send`.
    unsafe {
        (*handoff).stage = stage;
        (*handoff).template = current;
        (*handoff).flow_hash = traits.flow_hash;
        (*handoff).kept = kept;
        (*handoff).len = skb.len();
        (*handoff).error = 0;
        (*handoff).is_v6 = u32::from(is_v6);
        if needs_stack || has_vnis {
            (*handoff).vni = vni_of(traits.ifindex, template);
        }
        if has_metadata {
            (*handoff).is_tagged = u32::from(traits.is_tagged);
            (*handoff).ifindex = traits.ifindex;
            (*handoff).direction = traits.direction as u32;
            (*handoff).time_ns = traits.time_ns;
        }
        if needs_stack {
            (*handoff).made = Made::default();
        }
    }
    // SAFETY: the context is valid.
    let result = unsafe { bpf_clone_redirect(skb.as_ptr(), ifindex, 0) };
    // SAFETY: as above.
    let done = unsafe { &mut *handoff };
    let reached = core::mem::replace(&mut done.stage, stage::IDLE);

    let refusal = match result {
        0 => 0,
        _ if done.error != 0 => done.error,
        // Below 0 it is an errno.
        result if result < 0 => (-result) as u32,
        _ => ENOBUFS,
    };
    if needs_stack {
        return count_datagrams(skb, counters, &done.made, done.error, is_cut);
    }
    if reached == stage::STRAIGHT && refusal == 0 {
        // It has left as it was, since somebody took the encapsulating program away: never again.
        // SAFETY: an aligned word, which user space writes anew with the next template.
        unsafe { (&raw const template.is_known).cast_mut().write_volatile(0) };
        return Outcome::failed(ENODEV);
    }
    if refusal != 0 {
        return Outcome::failed(refusal);
    }
    let payload = u64::from(skb.len().min(kept) + setting!(redirect.tunnel_len));
    // SAFETY: as in `send`.
    unsafe {
        (*counters).datagrams += 1;
        (*counters).payload += payload;
    }
    Outcome { is_cut: u32::from(skb.len() > kept), datagrams: 1, payload, ..Outcome::NONE }
}

/// What came out of the segmenter was counted one by one.
#[inline(always)]
fn count_datagrams(skb: Skb, counters: *mut HookCounters, made: &Made, error: u32, is_cut: bool) -> Outcome {
    // 0 where the kernel does not know: what a virtual machine handed over.
    let expected = if is_cut { skb.gso_segs().max(1) } else { 1 };
    let (datagrams, payload) = (made.datagrams, made.payload);
    // SAFETY: as in `send`.
    unsafe {
        (*counters).datagrams += u64::from(datagrams);
        (*counters).payload += payload;
    }
    let outcome = Outcome { datagrams, payload, ..Outcome::NONE };
    if made.too_big > 0 && made.failed == 0 {
        return Outcome { is_too_big: 1, ..outcome };
    }
    if made.failed > 0 || datagrams < expected {
        return Outcome { error: if error == 0 { EHOSTUNREACH } else { error }, ..outcome };
    }
    Outcome { is_cut: u32::from(made.cut > 0), ..outcome }
}

#[inline(never)]
fn fail(counters: *mut HookCounters, error: u32) {
    // SAFETY: as in `send`.
    unsafe { (*counters).send_failed += 1 };
    match ERRORS.get_ptr_mut(error) {
        // SAFETY: this processor's own value; nothing is ever deleted.
        Some(count) => unsafe { *count += 1 },
        None => {
            let _ = ERRORS.insert(error, 1, 0);
        }
    }
}

//! Redirect mode: what the segmenter and the kernel's stack made of a clone leaves through the outgoing interface.

use aya_ebpf::{
    bindings::{BPF_F_PSEUDO_HDR, TC_ACT_SHOT},
    helpers::generated::{
        bpf_clone_redirect, bpf_l3_csum_replace, bpf_l4_csum_replace, bpf_skb_change_tail,
        bpf_skb_store_bytes,
    },
};
use mirror_common::{
    bytes::Bytes as _,
    ethernet, flow, ip,
    redirect::{Handoff, TEMPLATES_ALL, stage},
    settings::{family, oversize},
    udp,
};

use crate::{
    geneve,
    maps::{TEMPLATE, setting},
    redirect::{ENOBUFS, current, headers_len, is_v6},
    segmenter::discard,
    skb::Skb,
};

const SHOT: i32 = TC_ACT_SHOT;

/// An errno of linux/errno.h.
const EINVAL: i64 = 22;

/// Where in a packet what is.
struct Place {
    /// Offset of the UDP header; 0 in a later fragment.
    udp: u32,
    has_more: bool,
}

/// Gives a datagram its ports, cuts it where that is asked for, and sends it itself: only so is it known whether the
/// queue took it.
#[inline(always)]
pub fn see_off(skb: Skb, handoff: *mut Handoff) -> i32 {
    let Some(place) = find(skb) else { return aya_ebpf::bindings::TC_ACT_UNSPEC };
    send_anew(skb, &place, handoff);
    // What is done with: another one of it has left, or none is to.
    if place.udp != 0 && !place.has_more { SHOT } else { discard() }
}

#[inline(always)]
fn send_anew(skb: Skb, place: &Place, handoff: *mut Handoff) {
    // SAFETY: this processor's own value, which nothing else uses while this program runs.
    let handoff = unsafe { &mut *handoff };
    if place.udp != 0 {
        let result = finish(skb, place, handoff);
        if result > 0 {
            return;
        }
        if result < 0 {
            handoff.made.failed += 1;
            handoff.error = (-result) as u32;
            return;
        }
    } else if handoff.made.ends_early != 0 {
        return;
    }
    handoff.stage = stage::LEAVING;
    let pointer: *mut Handoff = handoff;
    // SAFETY: the context is valid.
    let result = unsafe { bpf_clone_redirect(skb.as_ptr(), skb.ifindex(), 0) };
    // SAFETY: as above.
    let handoff = unsafe { &mut *pointer };
    handoff.stage = stage::DATAGRAMS;
    match result {
        0 => {
            if place.udp != 0 {
                handoff.made.datagrams += 1;
                let length = skb.half(place.udp + 4).unwrap_or(0);
                handoff.made.payload += u64::from(length.saturating_sub(udp::HEADER_LEN as u16));
            }
        }
        result => {
            handoff.made.failed += 1;
            handoff.error = if result < 0 { (-result) as u32 } else { ENOBUFS };
        }
    }
}

/// Whether it is a datagram of the segmenter's, as the device made it.
#[inline(always)]
pub fn is_segmenters(skb: Skb) -> bool {
    let Some(Place { udp, .. }) = find(skb) else { return false };
    if udp == 0 {
        return false;
    }
    // All sensors have it in common.
    let Some(template) = current(0).and_then(|current| TEMPLATE.get_ptr(current)) else { return false };
    // SAFETY: the array's values stay in place, and user space does not write to the one in use.
    let port = unsafe { (*template).segmenter_port };
    skb.half(udp + 2).is_some_and(|destination| u32::from(destination) == port)
}

/// `None` where it is no packet of UDP.
#[inline(always)]
fn find(skb: Skb) -> Option<Place> {
    const IP: u32 = ethernet::HEADER_LEN;
    let kind = skb.half(IP - 2)?;
    let is_v4 = match setting!(redirect.family) {
        family::V4 => true,
        family::V6 => false,
        _ => kind == ethernet::IPV4,
    };
    let (protocol, udp, fragment, more) = if is_v4 {
        if kind != ethernet::IPV4 || skb.byte(IP)? != 0x45 {
            return None;
        }
        let word = skb.half(IP + 6)?;
        (skb.byte(IP + 9)?, IP + 20, word & 0x1fff, word & ip::MORE_V4 != 0)
    } else {
        if kind != ethernet::IPV6 {
            return None;
        }
        let udp = IP + ip::V6_HEADER_LEN as u32;
        match skb.byte(IP + 6)? {
            ip::FRAGMENT => {
                let word = skb.half(udp + 2)?;
                (skb.byte(udp)?, udp + ip::FRAGMENT_LEN as u32, word >> 3, word & ip::MORE_V6 != 0)
            }
            protocol => (protocol, udp, 0, false),
        }
    };
    (protocol == ip::UDP).then_some(Place { udp: if fragment == 0 { udp } else { 0 }, has_more: more })
}

/// Returns 0 where it is to be sent, above 0 where it is to be left out, below 0 an errno.
#[inline(always)]
fn finish(skb: Skb, place: &Place, handoff: &mut Handoff) -> i64 {
    let is_v6 = is_v6(|| handoff.is_v6 != 0);
    let whole = handoff.kept.saturating_add(headers_len(is_v6));
    let is_cut_here = skb.len() >= whole;
    let fragments = setting!(redirect.oversize) == oversize::FRAGMENT && !is_v6;
    handoff.made.ends_early = u32::from(place.has_more && (is_cut_here || !fragments));
    if place.has_more && !is_cut_here && !fragments && setting!(redirect.oversize) != oversize::TRUNCATE {
        handoff.made.too_big += 1;
        return 1;
    }
    let Some(template) = TEMPLATE.get_ptr(handoff.template % TEMPLATES_ALL as u32) else { return -EINVAL };
    // SAFETY: the array's values stay in place, and user space does not write to the one in use.
    let port = unsafe { (*template).port };
    let ports = u32::from(flow::source_port(handoff.flow_hash)) << 16 | u32::from(port);
    let ports = ports.to_be();
    let Some([old]) = skb.words::<1>(place.udp) else { return -EINVAL };
    if is_v6 {
        // A checksum that is left to the card stays as it is: ports are no part of the pseudo-header. That of a
        // fragmented datagram is complete.
        // SAFETY: the context is valid.
        unsafe {
            bpf_l4_csum_replace(skb.as_ptr(), place.udp + 6, u64::from(old.to_be()), u64::from(ports), 4);
        }
    }
    // SAFETY: the context is valid, and the number has four bytes.
    let result =
        unsafe { bpf_skb_store_bytes(skb.as_ptr().cast(), place.udp, (&raw const ports).cast(), 4, 0) };
    if result != 0 {
        return result;
    }
    if setting!(redirect.is_geneve) != 0 {
        let result = geneve::replace_vxlan(skb, place.udp, handoff);
        if result != 0 {
            return result;
        }
    }
    if handoff.made.ends_early == 0 && skb.len() <= whole {
        return 0;
    }
    handoff.made.cut += 1;
    cut(skb, place, whole.min(skb.len()), is_v6)
}

/// Makes the datagram end with the packet, which gets at most `len` bytes.
#[inline(always)]
fn cut(skb: Skb, place: &Place, len: u32, is_v6: bool) -> i64 {
    const IP: u32 = ethernet::HEADER_LEN;
    if len < skb.len() {
        // SAFETY: the context is valid.
        let result = unsafe { bpf_skb_change_tail(skb.as_ptr(), len, 0) };
        // As in `encapsulate`: the rest follows as padding.
        if result != 0 && result != -EINVAL {
            return result;
        }
    }
    let udp_len = (len - place.udp) as u16;
    let Some(old) = skb.half(place.udp + 4) else { return -EINVAL };
    if !is_v6 {
        let total = (len - IP) as u16;
        let (Some(old_total), Some(old_flags)) = (skb.half(IP + 2), skb.half(IP + 6)) else { return -EINVAL };
        let flags = old_flags & !ip::MORE_V4;
        // SAFETY: the context is valid.
        unsafe {
            bpf_l3_csum_replace(
                skb.as_ptr(),
                IP + 10,
                u64::from(old_total.to_be()),
                u64::from(total.to_be()),
                2,
            );
            bpf_l3_csum_replace(
                skb.as_ptr(),
                IP + 10,
                u64::from(old_flags.to_be()),
                u64::from(flags.to_be()),
                2,
            );
        }
        store(skb, IP + 2, total);
        store(skb, IP + 6, flags);
    } else {
        // The packet's checksum is that of its pseudo-header, which has the length, until the card completes it.
        // SAFETY: the context is valid.
        unsafe {
            bpf_l4_csum_replace(
                skb.as_ptr(),
                place.udp + 6,
                u64::from(old.to_be()),
                u64::from(udp_len.to_be()),
                u64::from(BPF_F_PSEUDO_HDR) | 2,
            );
        }
        store(skb, IP + 4, udp_len);
    }
    store(skb, place.udp + 4, udp_len);
    0
}

#[inline(always)]
fn store(skb: Skb, at: u32, half: u16) {
    let half = half.to_be();
    // SAFETY: the context is valid, and the number has two bytes. What was read before can be written.
    unsafe { bpf_skb_store_bytes(skb.as_ptr().cast(), at, (&raw const half).cast(), 2, 0) };
}

//! Redirect mode, on the segmenter: a VXLAN device that takes its destination from each packet.

use aya_ebpf::{
    bindings::{BPF_F_INGRESS, BPF_F_TUNINFO_IPV6, BPF_F_ZERO_CSUM_TX, TC_ACT_SHOT, TC_ACT_UNSPEC},
    helpers::generated::{bpf_redirect, bpf_skb_change_head, bpf_skb_set_tunnel_key},
};
use mirror_common::{
    geneve, own,
    redirect::{TEMPLATES_ALL, TunnelKey, stage},
};

use crate::{
    maps::{HANDOFF, TEMPLATE, setting},
    redirect::{current, is_v6},
    skb::Skb,
};

/// Tells the device where to send a clone. Whatever else comes is not meant for the sensor.
#[inline(always)]
pub fn address(skb: Skb) -> i32 {
    const SHOT: i32 = TC_ACT_SHOT;
    let Some(handoff) = HANDOFF.get_ptr_mut(0) else { return SHOT };
    // SAFETY: this processor's own value, which nothing else uses while this program runs.
    let handoff = unsafe { &mut *handoff };
    if handoff.stage != stage::SEGMENTER || handoff.len != skb.len() {
        return SHOT;
    }
    handoff.stage = stage::DATAGRAMS;
    let Some(template) = TEMPLATE.get_ptr(handoff.template % TEMPLATES_ALL as u32) else { return SHOT };
    // The helper wants it on the stack or in a map, and the map's is shared.
    // SAFETY: the array's values stay in place, and user space does not write to the one in use.
    let mut key: TunnelKey = unsafe { (*template).tunnel };
    key.id = handoff.vni;
    let flags = if is_v6(|| handoff.is_v6 != 0) { BPF_F_TUNINFO_IPV6 } else { BPF_F_ZERO_CSUM_TX };
    // SAFETY: the context is valid, and the key has as many bytes.
    let result = unsafe {
        bpf_skb_set_tunnel_key(
            skb.as_ptr(),
            (&raw mut key).cast(),
            size_of::<TunnelKey>() as u32,
            u64::from(flags),
        )
    };
    if result != 0 {
        handoff.error = (-result) as u32;
        return SHOT;
    }
    if setting!(redirect.has_metadata) != 0 {
        // Room for the option, between the device's header and the frame: see `crate::geneve`.
        // SAFETY: the context is valid.
        let result = unsafe { bpf_skb_change_head(skb.as_ptr(), geneve::OPTION_LEN as u32, 0) };
        if result != 0 {
            handoff.error = (-result) as u32;
            return SHOT;
        }
    }
    // SAFETY: the context is valid.
    unsafe { (*skb.as_ptr()).mark = own::MARK };
    TC_ACT_UNSPEC
}

/// Takes a packet away without its sender taking notice, who would try again or give up the rest of a datagram: the
/// segmenter drops whatever comes in. Returns the verdict.
#[inline(always)]
pub fn discard() -> i32 {
    let segmenter = current(0)
        .and_then(|current| TEMPLATE.get_ptr(current))
        // SAFETY: the array's values stay in place, and user space does not write to the one in use.
        .map_or(0, |template| unsafe { (*template).segmenter });
    // SAFETY: the helper takes any number.
    unsafe { bpf_redirect(segmenter, u64::from(BPF_F_INGRESS)) as i32 }
}

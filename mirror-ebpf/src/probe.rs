//! Redirect mode: the agent's probes, by which it learns how datagrams leave.

use aya_ebpf::bindings::TC_ACT_UNSPEC;
use mirror_common::redirect::{PROBE_LEN, SIGHTING_MAX};

use crate::{
    maps::{SIGHTINGS, setting},
    packet::Packet as _,
    segmenter::discard,
    skb::{Skb, checked_length},
};

/// The number of a probe of this agent's; 0 where it is none.
#[inline(never)]
pub fn is_probe(skb: Skb) -> u64 {
    let len = skb.len();
    let mut end = [0_u32; 3];
    // SAFETY: the array has as many bytes.
    let is_read = len >= PROBE_LEN
        && unsafe { skb.copy(len.wrapping_sub(PROBE_LEN), end.as_mut_ptr().cast(), PROBE_LEN) };
    let [first, second, number] = end;
    if is_read && [first, second] == setting!(redirect.cookie) { u64::from(number) } else { 0 }
}

/// A probe goes no further: user space gets to see it.
#[inline(always)]
pub fn take_away(skb: Skb) -> i32 {
    let number = is_probe(skb) as u32;
    if number == 0 {
        return TC_ACT_UNSPEC;
    }
    if let Some(sighting) = SIGHTINGS.get_ptr_mut(0)
        && let Some(kept) = checked_length(skb.len(), SIGHTING_MAX as u32)
    {
        // SAFETY: the array's value stays in place. There is one probe at a time; the number, which user space
        // looks for, is written last.
        unsafe {
            if skb.copy(0, (&raw mut (*sighting).bytes).cast(), kept) {
                (*sighting).ifindex = skb.ifindex();
                (*sighting).len = kept;
                (*sighting).is_tagged = u32::from(skb.vlan_tag() != 0);
                (&raw mut (*sighting).number).write_volatile(number);
            }
        }
    }
    discard()
}

//! What happens to each frame: counted, recognised, copied into its ring.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use mirror_common::{
    counters::key,
    ethernet::TAG_LEN,
    own,
    record::{Direction, RecordHeader},
};

use crate::{
    classify::{Class, classify},
    maps::{COUNTERS, settings},
    ring::{Copied, copy_into_ring},
    skb::Skb,
};

/// Every path adds to exactly one counter besides `seen`, or leaves a record in a ring.
#[inline(always)]
pub fn capture(skb: Skb, direction: Direction) {
    let ifindex = skb.ifindex();
    let Some(counters) = COUNTERS.get_ptr_mut(key(ifindex, direction)) else {
        // User space makes the entry before it attaches, and never takes it away.
        return;
    };
    // SAFETY: the pointer is to this processor's own value. Hooks run with softirqs off, so no other
    // run of this program comes in between on this processor, and entries are never deleted.
    let counters = unsafe { &mut *counters };

    let tag = skb.vlan_tag();
    let len = skb.len() + if tag == 0 { 0 } else { TAG_LEN };
    counters.seen += 1;
    counters.bytes += u64::from(len);

    let class = if own::is_marked(skb.mark()) { Class::Own } else { classify(skb) };
    let Class::Flow(flow_hash) = class else {
        counters.own += 1;
        return;
    };
    if len > settings().frame_max {
        counters.too_big += 1;
        return;
    }
    let header = RecordHeader {
        time_ns: if settings().time_stamps == 0 {
            0
        } else {
            // SAFETY: the helper has no preconditions.
            unsafe { bpf_ktime_get_ns() }
        },
        ifindex,
        flow_hash,
        captured_len: len,
        original_len: len,
        direction: direction as u16,
        segmentation: 0,
        gso_size: 0,
        checksum: 0,
    };
    match copy_into_ring(skb, tag, &header) {
        Copied::Whole => {}
        Copied::NoRoom => counters.ring_full += 1,
        Copied::Unreadable => counters.copy_failed += 1,
        Copied::TooLong => counters.too_big += 1,
    }
}

//! What happens to each frame: counted, recognised, described, copied into its ring.

use mirror_common::{
    ethernet::TAG_LEN,
    own,
    record::{Direction, RecordHeader, Segmentation},
};

use crate::{
    classify::{Class, classify},
    counters,
    filter::filter_skb,
    maps::{HEADERS, setting},
    offload,
    redirect::{self, Met, Traits},
    ring, select,
    skb::Skb,
    watch,
};

/// Every path adds to exactly one counter besides `seen`, or leaves a record in a ring. `is_limited` is for redirect
/// mode: the run ends after a number of frames.
#[inline(always)]
pub fn capture(skb: Skb, direction: Direction, is_limited: bool) {
    let ifindex = skb.ifindex();
    let (Some(counters), Some(headers)) = (counters::of(ifindex, direction), HEADERS.get_ptr_mut(0)) else {
        // User space makes the entry before it attaches, and takes it away after; the array has one element.
        return;
    };
    // SAFETY: the pointers are to this processor's own values. Hooks run with softirqs off, so no other
    // run of this program comes in between on this processor, but within `redirect::send`, which these references do
    // not reach; and no entry is deleted while a hook runs that may have it.
    let (counters, headers) = unsafe { (&mut *counters, &mut *headers) };

    let is_redirecting = setting!(redirect.is_on) != 0;
    let is_marked = own::is_marked(skb.mark());
    let met = if is_redirecting { redirect::meet(skb, is_marked) } else { Met::Frame };
    let missing_len = match met {
        Met::Frame => 0,
        Met::Clone => redirect::missing_len(),
        Met::Unfinished => return,
    };

    let tag = skb.vlan_tag();
    let tag_len = if tag == 0 { 0 } else { TAG_LEN };
    let len = skb.len() + tag_len + missing_len;
    counters.seen += 1;
    counters.bytes += u64::from(len);

    // In this order: what the host's own marking shows to be the agent's own is not the filter's to see. All else meets
    // the filter before its headers are read, so that one that is refused costs as little as it can. What is the agent's
    // own by its addresses, and refused, is `filtered` therefore.
    if is_marked || matches!(met, Met::Clone) {
        counters.own += 1;
        return;
    }
    if setting!(has_filter) != 0 && filter_skb(skb.as_ptr()) == 0 {
        counters.filtered += 1;
        return;
    }
    let Class::Flow(flow_hash) = classify(skb, headers) else {
        counters.own += 1;
        return;
    };
    if !select::takes(skb, headers, flow_hash, len, || skb.gso_segs(), counters) {
        return;
    }
    let (segmentation, gso_size) = offload::segmentation(skb, headers);
    let checksum = offload::checksum(skb, tag_len);
    if is_redirecting {
        if is_limited && !redirect::take_from_limit() {
            // No part of the run.
            counters.seen -= 1;
            counters.bytes -= u64::from(len);
            return;
        }
        if segmentation == Segmentation::None && len.min(setting!(snaplen)) > setting!(frame_max) {
            counters.too_big += 1;
            return;
        }
        watch::look(skb, tag, len, flow_hash);
        // Where it is not known what the stack left to do, it left what it does as a rule for what the host sends.
        let may_need = setting!(skb.is_known) == 0 && matches!(direction, Direction::Egress);
        let traits = Traits {
            flow_hash,
            longest: match segmentation {
                Segmentation::None => len,
                _ => redirect::segment_len(skb, headers, gso_size) + tag_len,
            },
            needs_stack: tag != 0 || skb.gso_size() != 0 || checksum != 0 || may_need,
            segmentation,
            ifindex,
            direction,
            is_tagged: tag != 0,
            time_ns: redirect::time_of_day(),
        };
        return redirect::send(skb, &traits, counters);
    }
    let found = RecordHeader {
        ifindex,
        flow_hash,
        original_len: len,
        direction: direction as u16,
        segmentation: segmentation as u16,
        gso_size,
        checksum,
        ..RecordHeader::default()
    };
    ring::keep(skb, tag, found, counters);
}

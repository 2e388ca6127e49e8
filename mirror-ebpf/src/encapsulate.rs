//! Redirect mode, on the interface that leads to the sensor: makes a datagram of a frame's clone, and sees off those
//! that the segmenter made.

use aya_ebpf::{
    bindings::{BPF_F_INVALIDATE_HASH, TC_ACT_SHOT, TC_ACT_UNSPEC},
    helpers::generated::{
        bpf_csum_diff, bpf_get_smp_processor_id, bpf_skb_change_head, bpf_skb_change_tail,
        bpf_skb_store_bytes,
    },
};
use mirror_common::{
    flow,
    geneve::Metadata,
    own,
    redirect::{HEADERS_MAX, Halves, Handoff, TEMPLATES_ALL, TO_TUNNEL_V4, TO_TUNNEL_V6, stage},
    udp,
};

use crate::{
    datagrams,
    maps::{HANDOFF, IDS, SUMMED, TEMPLATE, setting},
    packet::Packet,
    probe,
    redirect::{headers_len, is_v6},
    skb::{Skb, checked_length},
};

/// Looks at everything that leaves through the interface.
#[inline(always)]
pub fn encapsulate(skb: Skb) -> i32 {
    let Some(handoff) = HANDOFF.get_ptr_mut(0) else { return TC_ACT_UNSPEC };
    // SAFETY: this processor's own value, which nothing else uses while this program runs.
    let (stage, len) = unsafe { ((*handoff).stage, (*handoff).len) };
    match stage {
        stage::STRAIGHT if len == skb.len() => {
            // SAFETY: as above.
            let handoff = unsafe { &mut *handoff };
            handoff.stage = stage::LEAVING;
            match put_headers(skb, handoff) {
                0 => TC_ACT_UNSPEC,
                error => {
                    // An errno, below 0.
                    handoff.error = (-error) as u32;
                    TC_ACT_SHOT
                }
            }
        }
        stage::DATAGRAMS if own::is_marked(skb.mark()) => datagrams::see_off(skb, handoff),
        stage::IDLE if own::is_marked(skb.mark()) => {
            // One that waited for a neighbour: it was counted as failed when the hook was done.
            if datagrams::is_segmenters(skb) { TC_ACT_SHOT } else { probe::take_away(skb) }
        }
        _ => TC_ACT_UNSPEC,
    }
}

/// Bytes of an IPv4 header with no options.
const IPV4_LEN: u16 = 20;

/// Makes the clone a datagram. Returns 0, or what a helper returned.
#[inline(always)]
fn put_headers(skb: Skb, handoff: &Handoff) -> i64 {
    const EINVAL: i64 = 22;
    let is_v6 = is_v6(|| handoff.is_v6 != 0);
    let headers_len = headers_len(is_v6);
    let Some(template) = TEMPLATE.get_ptr(handoff.template % TEMPLATES_ALL as u32) else { return -EINVAL };
    // SAFETY: the array's values stay in place, and user space does not write to the one in use.
    let template = unsafe { &*template };

    let mut len = skb.len();
    if len > handoff.kept {
        len = handoff.kept;
        // SAFETY: the context is valid.
        let result = unsafe { bpf_skb_change_tail(skb.as_ptr(), len, 0) };
        // The kernel does not cut into headers that its stack has found. Then the datagram ends where its lengths
        // say, and the rest follows as padding.
        if result != 0 && result != -EINVAL {
            return result;
        }
    }
    let frame_sum = if is_v6 {
        match sum(skb, len) {
            Some(sum) => sum,
            None => return -EINVAL,
        }
    } else {
        0
    };
    // SAFETY: the context is valid.
    let result = unsafe { bpf_skb_change_head(skb.as_ptr(), headers_len, 0) };
    if result != 0 {
        return result;
    }
    let udp_len = (len + udp::HEADER_LEN as u32 + setting!(redirect.tunnel_len)) as u16;
    let port = flow::source_port(handoff.flow_hash);
    // Halves in wire order: IP at 7, UDP at 17 or 27.
    let Halves(mut headers) = template.headers;
    if is_v6 {
        let told = put_told(&mut headers, TO_TUNNEL_V6 as usize / 2, handoff);
        let checksum = fold(
            u64::from(template.sum)
                + told
                + u64::from(frame_sum)
                + 2 * u64::from(udp_len.to_be())
                + u64::from(port.to_be()),
        );
        headers[7 + 2] = udp_len.to_be();
        headers[27] = port.to_be();
        headers[27 + 2] = udp_len.to_be();
        // 0 would say that there is none (RFC 8200 section 8.1).
        headers[27 + 3] = if checksum == 0xffff { 0xffff } else { !checksum };
    } else {
        put_told(&mut headers, TO_TUNNEL_V4 as usize / 2, handoff);
        let total = udp_len + IPV4_LEN;
        let id = draw_id();
        headers[7 + 1] = total.to_be();
        headers[7 + 2] = id;
        headers[7 + 5] = !fold(u64::from(template.sum) + u64::from(total.to_be()) + u64::from(id));
        headers[17] = port.to_be();
        headers[17 + 2] = udp_len.to_be();
    }
    // Without the hash of the frame, which may be another for each direction: who needs one takes that of the datagram,
    // whose ports are the same for both.
    let flags = u64::from(BPF_F_INVALIDATE_HASH);
    // SAFETY: the context is valid, and `headers` has room for all headers.
    let result = unsafe {
        bpf_skb_store_bytes(skb.as_ptr().cast(), 0, (&raw const headers).cast(), headers_len, flags)
    };
    if result != 0 {
        return result;
    }
    // For cards with several queues: both directions of a connection in one, whatever processor they come by.
    // SAFETY: the context is valid.
    unsafe {
        (*skb.as_ptr()).queue_mapping = 1 + (handoff.flow_hash & 63);
        (*skb.as_ptr()).mark = own::MARK;
    }
    0
}

/// Puts what differs from frame to frame into the tunnel's header, which begins at half `at`. Returns the sum of it.
#[inline(always)]
fn put_told(headers: &mut [u16; HEADERS_MAX / 2], at: usize, handoff: &Handoff) -> u64 {
    let mut sum = 0;
    let mut put = |index: usize, half: u16| {
        headers[index] = half.to_be();
        sum += u64::from(half.to_be());
    };
    if setting!(redirect.has_vnis) != 0 {
        put(at + 2, (handoff.vni >> 8) as u16);
        put(at + 3, (handoff.vni << 8) as u16);
    }
    if setting!(redirect.has_metadata) != 0 {
        let words = metadata(handoff, handoff.len).words();
        // Behind the header of GENEVE and that of the option.
        let data = [(handoff.time_ns >> 32) as u32, handoff.time_ns as u32, words[0], words[1]];
        let mut index = at + 6;
        for word in data {
            put(index, (word >> 16) as u16);
            put(index + 1, word as u16);
            index += 2;
        }
    }
    sum
}

/// What is told of a frame that had `wire_len` bytes on the wire.
#[inline(always)]
pub fn metadata(handoff: &Handoff, wire_len: u32) -> Metadata {
    Metadata {
        time_ns: handoff.time_ns,
        wire_len,
        direction: handoff.direction as u16,
        ifindex: handoff.ifindex,
    }
}

/// The sum of the first `len` bytes, as `bpf_csum_diff` adds up, below 2^32.
#[inline(never)]
fn sum(skb: Skb, len: u32) -> Option<u32> {
    /// What older kernels' `bpf_csum_diff` takes in one call.
    const PIECE: u32 = 512;
    let words = SUMMED.get_ptr_mut(0)?;
    let mut sum = 0;
    for piece in 0..65536 / PIECE {
        let at = piece * PIECE;
        if at >= len {
            break;
        }
        let n = checked_length((len - at).min(PIECE), PIECE)?;
        // SAFETY: this processor's own 1024 bytes. The word in which the piece ends is padded with zeros; its
        // place is below 1024, as the verifier sees by the mask.
        unsafe {
            words.cast::<u8>().add((n & 0x3fc) as usize).cast::<u32>().write(0);
            if !skb.copy(at, words.cast(), n) {
                return None;
            }
        }
        let padded = n.wrapping_add(3) & 0x3fc;
        // SAFETY: as above.
        let result = unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, words.cast(), padded, sum) };
        sum = u32::try_from(result).ok()?;
    }
    Some(sum)
}

/// The one's complement sum in 16 bits.
#[inline(always)]
fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// A number that other datagrams of this host between the same addresses do not have at this time (RFC 6864).
#[inline(always)]
fn draw_id() -> u16 {
    let Some(next) = IDS.get_ptr_mut(0) else { return 0 };
    let bits = setting!(redirect.cpu_bits);
    // SAFETY: this processor's own value; the helper has no preconditions.
    unsafe {
        *next += 1;
        ((*next << bits) | bpf_get_smp_processor_id()) as u16
    }
}

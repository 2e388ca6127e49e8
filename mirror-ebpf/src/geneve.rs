//! Redirect mode with GENEVE: the segmenter makes VXLAN, which has as many bytes, and GENEVE is put in its place.
//!
//! A GENEVE device of the kernel's would do as well as a segmenter, but fewer kernels have one. For the option, the
//! program on the segmenter puts room in front of the frame, which the device takes for a part of it: lengths and
//! fragments are right before anything is known of an option.

use aya_ebpf::helpers::generated::{bpf_csum_diff, bpf_l4_csum_replace, bpf_skb_store_bytes};
use mirror_common::{
    bytes::Bytes as _,
    geneve::{BASE_LEN, OPTION_LEN, header},
    redirect::Handoff,
    udp,
};

use crate::{encapsulate::metadata, maps::setting, packet::Packet as _, redirect::is_v6, skb::Skb};

/// An errno of linux/errno.h.
const EINVAL: i64 = 22;

/// Words of the header.
const BASE: usize = BASE_LEN / 4;
/// Words of the header and the option.
const WHOLE: usize = BASE + OPTION_LEN / 4;
/// The same, and the addresses and the tag of a frame.
const TAGGED: usize = WHOLE + 4;

/// Makes GENEVE of the VXLAN behind the UDP header at `udp`. Returns 0, or an errno below 0.
#[inline(always)]
pub fn replace_vxlan(skb: Skb, udp: u32, handoff: &Handoff) -> i64 {
    if setting!(redirect.has_metadata) == 0 {
        replace::<BASE>(skb, udp, handoff)
    } else if handoff.is_tagged == 0 {
        replace::<WHOLE>(skb, udp, handoff)
    } else {
        replace::<TAGGED>(skb, udp, handoff)
    }
}

#[inline(always)]
fn replace<const WORDS: usize>(skb: Skb, udp: u32, handoff: &Handoff) -> i64 {
    let at = udp + udp::HEADER_LEN as u32;
    let bytes = WORDS as u32 * 4;
    let Some(udp_len) = skb.half(udp + 4) else { return -EINVAL };
    let mut old = [0_u32; WORDS];
    // SAFETY: the array has as many bytes.
    if !unsafe { skb.copy(at, old.as_mut_ptr().cast(), bytes) } {
        return -EINVAL;
    }
    let mut new = old;
    let option_len = if WORDS == BASE { 0 } else { OPTION_LEN };
    let [a, b, c, d, e, f, g, h] = header(handoff.vni, option_len);
    new[0] = u32::from_ne_bytes([a, b, c, d]);
    new[1] = u32::from_ne_bytes([e, f, g, h]);
    if WORDS >= WHOLE {
        let header_len = (udp::HEADER_LEN + BASE_LEN + OPTION_LEN) as u32;
        let metadata = metadata(handoff, u32::from(udp_len).wrapping_sub(header_len));
        let option = metadata.option();
        let (words, _) = option.as_chunks::<4>();
        for (to, word) in new[BASE..WHOLE].iter_mut().zip(words) {
            *to = u32::from_ne_bytes(*word);
        }
    }
    if WORDS == TAGGED {
        // The kernel put the tag where it is in a frame, 12 bytes behind the beginning: in the middle of the room.
        const TAG: usize = BASE + 3;
        const ADDRESSES: usize = WHOLE + 1;
        new[WHOLE] = old[ADDRESSES];
        new[WHOLE + 1] = old[ADDRESSES + 1];
        new[WHOLE + 2] = old[ADDRESSES + 2];
        new[WHOLE + 3] = old[TAG];
    }
    if is_v6(|| handoff.is_v6 != 0) {
        // One that is left to the card stays as it is.
        // SAFETY: the context is valid; the arrays have as many bytes.
        unsafe {
            let difference = bpf_csum_diff(old.as_mut_ptr(), bytes, new.as_mut_ptr(), bytes, 0);
            bpf_l4_csum_replace(skb.as_ptr(), udp + 6, 0, difference as u64, 0);
        }
    }
    // SAFETY: the context is valid; the array has as many bytes.
    unsafe { bpf_skb_store_bytes(skb.as_ptr().cast(), at, new.as_ptr().cast(), bytes, 0) }
}

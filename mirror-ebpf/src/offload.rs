//! What the stack left to the network card.
//!
//! `__sk_buff` shows `gso_size` only. The rest is read from the kernel's own structs, where user space has found
//! out how they are laid out.

use core::{ffi::c_void, mem::MaybeUninit};

use mirror_common::{
    headers::Headers,
    record::{ChecksumPlace, Segmentation},
    settings::SPAN_MAX,
};

use crate::{
    maps::setting,
    skb::{Skb, read_kernel},
};

/// In the place of `gso_size` where the segments are packets of their own in a list, of any length: SCTP's.
/// (`GSO_BY_FRAGS` in include/linux/skbuff.h)
const BY_FRAGS: u32 = 0xffff;

/// Where the checksum is missing in a frame that gets `tag_len` bytes of VLAN tag put back:
/// [`ChecksumPlace::packed`].
#[inline(always)]
pub fn checksum(skb: Skb, tag_len: u32) -> u16 {
    if setting!(skb.is_known) == 0 {
        return 0;
    }
    // Hardly a frame has one missing: so a single byte first, which the kernel copies in a fraction of the time.
    let mut ip_summed = 0_u8;
    let (span_at, span_len, ip_summed_at) =
        (setting!(skb.span), setting!(skb.span_len), setting!(skb.ip_summed));
    // SAFETY: the variable has one byte.
    let is_read = unsafe { skb.read_kernel(span_at + ip_summed_at, &raw mut ip_summed, 1) };
    if !is_read || u32::from(ip_summed) & setting!(skb.ip_summed_mask) != setting!(skb.ip_summed_partial) {
        return 0;
    }
    let mut span = MaybeUninit::<[u64; SPAN_MAX / 8]>::uninit();
    let bytes = span.as_mut_ptr().cast::<u8>();
    // SAFETY: user space sees to it that the length is at most SPAN_MAX, and the verifier too.
    if !unsafe { skb.read_kernel(span_at, bytes, span_len) } {
        return 0;
    }
    macro_rules! half {
        ($field:ident) => {{
            let at = setting!(skb.$field) as usize;
            // SAFETY: user space sees to it that the fields are within what was read, and the verifier too. The span is
            // aligned to 8, and the field's offset is even.
            unsafe { bytes.add(at).cast::<u16>().read() }
        }};
    }
    // Both count from `head`. On either hook the frame begins with its MAC header: the stack says so on the way
    // out, and on the way in that is how the kernel finds back to the frame's beginning (`mac_len`).
    let start = u32::from(half!(csum_start)).wrapping_sub(u32::from(half!(mac_header)));
    // A transport header in front of the frame is nothing that the kernel makes, and has no room.
    let start = if start > u32::from(ChecksumPlace::START_MAX) { u32::MAX } else { start + tag_len };
    let start = if start > u32::from(u16::MAX) { u16::MAX } else { start as u16 };
    ChecksumPlace { start, field: half!(csum_offset) }.packed()
}

/// How a frame with these headers is to be cut, and into how many bytes of payload each.
#[inline(always)]
pub fn segmentation(skb: Skb, headers: &Headers) -> (Segmentation, u16) {
    let size = skb.gso_size();
    if size == 0 || size >= BY_FRAGS {
        return (Segmentation::None, 0);
    }
    let kind = match gso_type(skb) {
        Some(gso_type) => Segmentation::of_gso_type(gso_type, &setting!(skb.gso)),
        None => Segmentation::of_headers(headers),
    };
    (kind, if kind == Segmentation::None { 0 } else { size as u16 })
}

/// `skb_shinfo(skb)->gso_type`.
#[inline(always)]
fn gso_type(skb: Skb) -> Option<u32> {
    if setting!(skb.is_known) == 0 {
        return None;
    }
    let (head_at, end_at) = (setting!(skb.head), setting!(skb.end));
    let (mut head, mut end, mut gso_type) = (0_u64, 0_u32, 0_u32);
    // SAFETY: the variables have as many bytes as is said.
    let is_read = unsafe {
        skb.read_kernel(head_at, (&raw mut head).cast(), 8)
            && skb.read_kernel(end_at, (&raw mut end).cast(), 4)
    };
    if !is_read {
        return None;
    }
    // `skb_end_pointer` of include/linux/skbuff.h, where offsets are used (NET_SKBUFF_DATA_USES_OFFSET).
    let shared_info = head.wrapping_add(u64::from(end));
    let address = shared_info.wrapping_add(u64::from(setting!(skb.gso_type)));
    // SAFETY: as above.
    unsafe { read_kernel(address as *const c_void, (&raw mut gso_type).cast(), 4) }.then_some(gso_type)
}

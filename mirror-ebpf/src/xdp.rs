//! The XDP hook: a frame in front of the host's stack, and what becomes of it.

use core::{array, ffi::c_void, hint::black_box};

use aya_ebpf::{
    bindings::xdp_md,
    helpers::generated::{bpf_xdp_get_buff_len, bpf_xdp_load_bytes},
};
use mirror_common::{
    bytes::Bytes,
    checksum, ethernet,
    headers::{Headers, Part},
    ip,
    record::{ChecksumPlace, Direction, RecordHeader, Segmentation},
};

use crate::{
    classify::{Class, classify},
    counters,
    filter::filter_xdp,
    maps::{HEADERS, setting},
    packet::Packet,
    ring, select,
    skb::read_kernel,
};

/// What an XDP program was called for. A frame may be in several pieces, of which the first one lies open.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Buff(*mut xdp_md);

impl Buff {
    pub const fn new(ctx: *mut xdp_md) -> Self {
        Self(ctx)
    }

    #[inline(always)]
    fn ifindex(self) -> u32 {
        // SAFETY: the kernel hands every program a valid context; the verifier checks the access.
        unsafe { (*self.0).ingress_ifindex }
    }

    /// Bytes of the frame, in all its pieces.
    #[inline(always)]
    fn len(self) -> u32 {
        if setting!(xdp.has_load_bytes) != 0 {
            // SAFETY: the context is valid.
            return unsafe { bpf_xdp_get_buff_len(self.0) } as u32;
        }
        // SAFETY: as in `ifindex`.
        let (data, end) = unsafe { ((*self.0).data as usize, (*self.0).data_end as usize) };
        // Else the compiler would take the difference of the lower halves, which the verifier does not allow.
        black_box(end.wrapping_sub(data)) as u32
    }

    /// As `Skb::linear`: where the `len` bytes at `offset` are, if they lie open and at an even offset.
    #[inline(always)]
    fn linear(self, offset: u32, len: usize) -> Option<*const u16> {
        /// Headers end before, and an offset that has no other bits is even.
        const MASK: u32 = 0xffe;
        if offset & !MASK != 0 {
            return None;
        }
        // For the verifier: see `Skb::linear`.
        let offset = black_box(offset) & MASK;
        // SAFETY: as in `ifindex`. Both are addresses, which the kernel puts in their place.
        let (data, end) = unsafe { ((*self.0).data as usize, (*self.0).data_end as usize) };
        let start = data.wrapping_add(offset as usize);
        (start.wrapping_add(len) <= end).then_some(start as *const u16)
    }

    /// Copies a field of the kernel's own `struct xdp_buff`, whose address the context is (`xdp_convert_ctx_access`
    /// in net/core/filter.c).
    ///
    /// # Safety
    ///
    /// `to` has room for `len` bytes.
    #[inline(always)]
    unsafe fn read_kernel(self, offset: u32, to: *mut u8, len: u32) -> bool {
        // SAFETY: the caller vouches for `to`.
        unsafe { read_kernel(self.0.cast::<c_void>().wrapping_byte_add(offset as usize), to, len) }
    }
}

impl Packet for Buff {
    #[inline(always)]
    unsafe fn copy(self, offset: u32, to: *mut u8, len: u32) -> bool {
        if setting!(xdp.has_load_bytes) != 0 {
            // SAFETY: the context is valid; the caller vouches for `to` and `len`.
            return unsafe { bpf_xdp_load_bytes(self.0, offset, to.cast::<c_void>(), len) == 0 };
        }
        // Where there is no such helper, frames are in one piece. Nobody may add what is unbounded to a packet's
        // address; all that is read from further behind is a whole frame, from 0 on.
        const MASK: u32 = 0xfff;
        let offset = black_box(offset);
        if offset > MASK || offset + len > self.len() {
            return false;
        }
        // SAFETY: as in `ifindex`.
        let data = unsafe { (*self.0).data as usize };
        let start = data.wrapping_add((offset & MASK) as usize);
        // SAFETY: the caller vouches for `to` and `len`.
        unsafe { read_kernel(start as *const c_void, to, len) }
    }
}

impl Bytes for Buff {
    #[inline(always)]
    fn words<const N: usize>(self, offset: u32) -> Option<[u32; N]> {
        if let Some(at) = self.linear(offset, 4 * N) {
            // SAFETY: `linear` vouches for N words. In halves, since an IP header is not aligned to more.
            let half = |index| u32::from(u16::from_be(unsafe { at.add(index).read() }));
            return Some(array::from_fn(|index| half(2 * index) << 16 | half(2 * index + 1)));
        }
        let mut words = [0_u32; N];
        // SAFETY: the array has four bytes for each word.
        let whole = unsafe { self.copy(offset, words.as_mut_ptr().cast(), size_of_val(&words) as u32) };
        whole.then_some(words.map(u32::from_be))
    }

    #[inline(always)]
    fn half(self, offset: u32) -> Option<u16> {
        if let Some(at) = self.linear(offset, 2) {
            // SAFETY: `linear` vouches for two bytes.
            return Some(u16::from_be(unsafe { at.read() }));
        }
        let mut half = 0_u16;
        // SAFETY: the variable has two bytes.
        unsafe { self.copy(offset, (&raw mut half).cast(), 2) }.then_some(u16::from_be(half))
    }

    #[inline(always)]
    fn byte(self, offset: u32) -> Option<u8> {
        let mut byte = 0;
        // SAFETY: the variable has one byte.
        unsafe { self.copy(offset, &raw mut byte, 1) }.then_some(byte)
    }
}

/// Every path adds to exactly one counter besides `seen`, or leaves a record in a ring. `is_skb` says that the frame
/// is a socket buffer's, and may be a super-frame.
#[inline(always)]
pub fn capture(buff: Buff, is_skb: bool) {
    let ifindex = buff.ifindex();
    let (Some(counters), Some(headers)) = (counters::of(ifindex, Direction::Ingress), HEADERS.get_ptr_mut(0))
    else {
        // As for TC: both are always there.
        return;
    };
    // SAFETY: as for TC: this processor's own, and nothing comes in between.
    let (counters, headers) = unsafe { (&mut *counters, &mut *headers) };
    let len = buff.len();
    counters.seen += 1;
    counters.bytes += u64::from(len);
    // As for TC, before the headers are read.
    if setting!(has_filter) != 0 && filter_xdp(buff.0) == 0 {
        counters.filtered += 1;
        return;
    }
    let Class::Flow(flow_hash) = classify(buff, headers) else {
        counters.own += 1;
        return;
    };
    let (segmentation, gso_size) = if is_skb { segmentation(buff) } else { (Segmentation::None, 0) };
    let segments = || len.checked_div(u32::from(gso_size)).unwrap_or(0);
    if !select::takes(buff, headers, flow_hash, len, segments, counters) {
        return;
    }
    let checksum = missing_checksum(buff, headers, len);
    let found = RecordHeader {
        ifindex,
        flow_hash,
        original_len: len,
        direction: Direction::Ingress as u16,
        segmentation: segmentation as u16,
        gso_size,
        checksum,
        ..RecordHeader::default()
    };
    ring::keep(buff, 0, found, counters);
}

/// Where the checksum is missing: [`ChecksumPlace::packed`].
///
/// XDP is not told what the stack left to a card, which a veth pair hands on as it is. But it leaves the
/// pseudo-header's sum in the field, and that is what a missing checksum is known by. A right one of the same value
/// stays what it is when it is computed anew; a wrong one of the same value, one in 65,536, is put right. What is in a
/// tunnel is not looked at.
#[inline(always)]
fn missing_checksum(buff: Buff, headers: &Headers, len: u32) -> u16 {
    const TCP_FIELD: u16 = 16;
    const UDP_FIELD: u16 = 6;
    // The headers that an ICMP error quotes, which are read without an Ethernet header, are left as they are.
    if headers.part != Part::Whole || headers.ethertype == 0 {
        return 0;
    }
    let field = match headers.protocol {
        ip::TCP => TCP_FIELD,
        ip::UDP => UDP_FIELD,
        _ => return 0,
    };
    let at = headers.at;
    let Some(found) = buff.half(at.wrapping_add(u32::from(field))) else {
        return 0;
    };
    // A frame that has been on a wire may be padded, and its checksum is there: the stack pads none. Looked at last,
    // since hardly a frame gets so far in vain.
    if found != checksum::pseudo_header(headers, len.wrapping_sub(at)) || packet_end(buff) != len {
        return 0;
    }
    ChecksumPlace { start: if at > u32::from(u16::MAX) { u16::MAX } else { at as u16 }, field }.packed()
}

/// Where the IP packet of a frame ends that has one, counted from the frame's first byte.
#[inline(never)]
fn packet_end(buff: Buff) -> u32 {
    let mut at = ethernet::ADDRESSES_LEN;
    for _ in 0..=ethernet::TAGS_MAX {
        match buff.half(at) {
            Some(ethernet::VLAN | ethernet::SERVICE_VLAN | ethernet::OLD_QINQ) => at += ethernet::TAG_LEN,
            // The total length (RFC 791 section 3.1); the length of what follows the header (RFC 8200 section 3).
            Some(ethernet::IPV4) => return at + 2 + u32::from(buff.half(at + 4).unwrap_or(0)),
            Some(ethernet::IPV6) => return at + 2 + 40 + u32::from(buff.half(at + 6).unwrap_or(0)),
            _ => return 0,
        }
    }
    0
}

/// How the frame is to be cut: from its socket buffer's `skb_shared_info`, which is where the kernel's
/// `xdp_get_shared_info_from_buff` (include/net/xdp.h) finds it.
#[inline(always)]
fn segmentation(buff: Buff) -> (Segmentation, u16) {
    const NONE: (Segmentation, u16) = (Segmentation::None, 0);
    /// `GSO_BY_FRAGS` of include/linux/skbuff.h: segments of any length.
    const BY_FRAGS: u16 = 0xffff;
    if setting!(xdp.is_known) == 0 {
        return NONE;
    }
    let (start_at, size_at) = (setting!(xdp.data_hard_start), setting!(xdp.frame_sz));
    let (mut start, mut size) = (0_u64, 0_u32);
    // SAFETY: the variables have as many bytes as is said.
    let is_read = unsafe {
        buff.read_kernel(start_at, (&raw mut start).cast(), 8)
            && buff.read_kernel(size_at, (&raw mut size).cast(), 4)
    };
    if !is_read {
        return NONE;
    }
    let shared_info =
        start.wrapping_add(u64::from(size)).wrapping_sub(u64::from(setting!(xdp.shared_info_len)));
    let size_at = shared_info.wrapping_add(u64::from(setting!(xdp.gso_size))) as *const c_void;
    let type_at = shared_info.wrapping_add(u64::from(setting!(xdp.gso_type))) as *const c_void;
    let mut gso_size = 0_u16;
    // SAFETY: as above.
    let is_read = unsafe { read_kernel(size_at, (&raw mut gso_size).cast(), 2) };
    if !is_read || gso_size == 0 || gso_size == BY_FRAGS {
        return NONE;
    }
    let mut gso_type = 0_u32;
    // SAFETY: as above.
    if !unsafe { read_kernel(type_at, (&raw mut gso_type).cast(), 4) } {
        return NONE;
    }
    let kind = Segmentation::of_gso_type(gso_type, &setting!(skb.gso));
    if kind == Segmentation::None { NONE } else { (kind, gso_size) }
}

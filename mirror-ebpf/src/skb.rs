//! A socket buffer as the hooks see it.

use core::{array, ffi::c_void, hint::black_box};

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{bpf_probe_read_kernel, bpf_skb_load_bytes},
};
use mirror_common::bytes::Bytes;

use crate::packet::Packet;

/// The socket buffer that a hook was called for.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Skb(*mut __sk_buff);

impl Skb {
    pub const fn new(skb: *mut __sk_buff) -> Self {
        Self(skb)
    }

    /// For helpers that want it.
    #[inline(always)]
    pub const fn as_ptr(self) -> *mut __sk_buff {
        self.0
    }

    /// Bytes in the buffer, Ethernet header included, a tag in the metadata not.
    #[inline(always)]
    pub fn len(self) -> u32 {
        // SAFETY: the kernel hands every program a valid context; the verifier checks the access.
        unsafe { (*self.0).len }
    }

    #[inline(always)]
    pub fn mark(self) -> u32 {
        // SAFETY: as in `len`.
        unsafe { (*self.0).mark }
    }

    #[inline(always)]
    pub fn ifindex(self) -> u32 {
        // SAFETY: as in `len`.
        unsafe { (*self.0).ifindex }
    }

    /// The VLAN tag that lies in the metadata: protocol in the upper half, control information in the
    /// lower. 0 where there is none, which no tag is. Cards strip tags from what they receive and put
    /// them into what they send, and the kernel does the same in their place (`skb_vlan_untag` in
    /// net/core/skbuff.c), so that the bytes in the buffer have none.
    #[inline(always)]
    pub fn vlan_tag(self) -> u32 {
        // SAFETY: as in `len`.
        let (present, protocol, control) =
            unsafe { ((*self.0).vlan_present, (*self.0).vlan_proto, (*self.0).vlan_tci) };
        if present == 0 {
            return 0;
        }
        // The protocol is in wire order, the control information in host order.
        u32::from(u16::from_be(protocol as u16)) << 16 | control & 0xffff
    }

    /// Bytes of payload in each segment of a frame that the card is to cut; 0 where it is not. (Linux 5.7)
    #[inline(always)]
    pub fn gso_size(self) -> u32 {
        // SAFETY: as in `len`.
        unsafe { (*self.0).gso_size }
    }

    /// Segments that a frame is to be cut into; 0 where the kernel does not know. (Linux 5.1)
    #[inline(always)]
    pub fn gso_segs(self) -> u32 {
        // SAFETY: as in `len`.
        unsafe { (*self.0).gso_segs }
    }

    /// Copies what the kernel has at `offset` in its own `struct sk_buff`. The context is the address of one:
    /// the kernel turns each access to `__sk_buff` into one to that (`bpf_convert_ctx_access` in
    /// net/core/filter.c).
    ///
    /// # Safety
    ///
    /// `to` has room for `len` bytes.
    #[inline(always)]
    pub unsafe fn read_kernel(self, offset: u32, to: *mut u8, len: u32) -> bool {
        // SAFETY: the caller vouches for `to`.
        unsafe { read_kernel(self.0.cast::<c_void>().wrapping_byte_add(offset as usize), to, len) }
    }

    /// Where the `len` bytes at `offset` are, if all of them are in the linear area and at an even offset, as
    /// every header is: the kernel sees to it that the frame begins at an even address.
    #[inline(always)]
    fn linear(self, offset: u32, len: usize) -> Option<*const u16> {
        /// Headers end before, and an offset that has no other bits is even.
        const MASK: u32 = 0xffe;
        if offset & !MASK != 0 {
            return None;
        }
        // The compiler would turn comparison and mask into a form that the verifier takes no bound from; and it
        // lets nobody add an unbounded number to a packet's address.
        let offset = black_box(offset) & MASK;
        // SAFETY: as in `len`. Both are addresses, which the kernel puts in their place.
        let (data, end) = unsafe { ((*self.0).data as usize, (*self.0).data_end as usize) };
        let start = data.wrapping_add(offset as usize);
        (start.wrapping_add(len) <= end).then_some(start as *const u16)
    }
}

/// Copies what lies at an address of the kernel's. `false` where nothing does.
///
/// # Safety
///
/// `to` has room for `len` bytes.
#[inline(always)]
pub unsafe fn read_kernel(address: *const c_void, to: *mut u8, len: u32) -> bool {
    // SAFETY: the caller vouches for `to`. The helper takes any address, and says so where it cannot be read.
    unsafe { bpf_probe_read_kernel(to.cast::<c_void>(), len, address) == 0 }
}

impl Packet for Skb {
    #[inline(always)]
    unsafe fn copy(self, offset: u32, to: *mut u8, len: u32) -> bool {
        // SAFETY: the context is valid; the caller vouches for `to` and `len`.
        unsafe { bpf_skb_load_bytes(self.0.cast(), offset, to.cast::<c_void>(), len) == 0 }
    }
}

/// In place where the bytes are in the linear area, as headers are in nearly all frames. Through the helper where
/// they are not, which reaches all data and costs a call.
impl Bytes for Skb {
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

/// `length` if it is from 1 to `max`, in a form whose bounds the verifier can see.
///
/// The caller's comparison with the class bounds the length already. The compiler knows, and may keep
/// that knowledge in another register than the one that the verifier looks at: hidden in the black box
/// the length is compared anew, where it is used. And it would merge a comparison with 0 and one with the
/// maximum into a form that the verifier takes no lower bound from; so the 1 is added after comparing.
#[inline(always)]
pub fn checked_length(length: u32, max: u32) -> Option<u32> {
    let less_one = black_box(length.wrapping_sub(1));
    (less_one < max).then(|| less_one + 1)
}

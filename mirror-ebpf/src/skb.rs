//! A socket buffer as the hooks see it.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{bpf_probe_read_kernel, bpf_skb_load_bytes},
};
use mirror_common::bytes::Bytes;

/// The socket buffer that a hook was called for.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Skb(*mut __sk_buff);

impl Skb {
    pub const fn new(skb: *mut __sk_buff) -> Self {
        Self(skb)
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

    /// Copies `len` bytes at `offset` to `to`. `false` where the buffer is shorter.
    ///
    /// # Safety
    ///
    /// `to` has room for `len` bytes. The verifier checks that too, and wants to see `len` above 0.
    #[inline(always)]
    pub unsafe fn copy(self, offset: u32, to: *mut u8, len: u32) -> bool {
        // SAFETY: the context is valid; the caller vouches for `to` and `len`.
        unsafe { bpf_skb_load_bytes(self.0.cast(), offset, to.cast::<c_void>(), len) == 0 }
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

/// Through the helper, because it reaches data outside the linear area.
impl Bytes for Skb {
    #[inline(always)]
    fn words<const N: usize>(self, offset: u32) -> Option<[u32; N]> {
        let mut words = [0_u32; N];
        // SAFETY: the array has four bytes for each word.
        let whole = unsafe { self.copy(offset, words.as_mut_ptr().cast(), size_of_val(&words) as u32) };
        whole.then_some(words.map(u32::from_be))
    }

    #[inline(always)]
    fn half(self, offset: u32) -> Option<u16> {
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

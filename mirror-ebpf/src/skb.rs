//! A socket buffer as the hooks see it.

use core::ffi::c_void;

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_skb_load_bytes};
use mirror_common::{
    bytes::Bytes,
    ethernet::{ADDRESSES_LEN, TAG_LEN},
};

/// The socket buffer that a hook was called for.
#[derive(Clone, Copy)]
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

    /// The VLAN tag that lies in the metadata, in wire order: cards strip tags from what they receive
    /// and put them into what they send, and the kernel does the same in their place
    /// (`skb_vlan_untag` in net/core/skbuff.c), so that the bytes in the buffer have none.
    #[inline(always)]
    pub fn vlan_tag(self) -> Option<[u8; TAG_LEN as usize]> {
        // SAFETY: as in `len`.
        let (present, protocol, control) =
            unsafe { ((*self.0).vlan_present, (*self.0).vlan_proto, (*self.0).vlan_tci) };
        if present == 0 {
            return None;
        }
        // The protocol is in wire order already, the control information in host order.
        let [a, b] = (protocol as u16).to_ne_bytes();
        let [c, d] = (control as u16).to_be_bytes();
        Some([a, b, c, d])
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

impl Bytes for Skb {
    /// Through the helper, because it reaches data outside the linear area.
    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        // SAFETY: the array has N bytes.
        unsafe { self.copy(offset, bytes.as_mut_ptr(), N as u32) }.then_some(bytes)
    }
}

/// Bytes in front of a tag that is put back.
pub const BEFORE_TAG: u32 = ADDRESSES_LEN;

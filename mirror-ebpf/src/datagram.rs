//! Keeps the fragments of a datagram together.

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_NOEXIST},
    helpers::bpf_ktime_get_ns,
};
use mirror_common::{flow, headers::Headers};

use crate::maps::{DATAGRAMS, Datagram};

/// How long a datagram's number is not taken for another's. Senders use a number again after 65,536
/// datagrams; fragments that a network reordered are milliseconds apart.
const LIFETIME_NS: u64 = 1_000_000_000;

/// The flow hash for a fragment whose own is `flow_hash`. Only a datagram's first fragment has ports, so
/// its hash is kept for the others; where another one comes first, all follow that one.
#[inline(never)]
pub fn common_hash(headers: &Headers, flow_hash: u32) -> u32 {
    let key = flow::datagram(headers);
    // SAFETY: the helper has no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    let mut stale = false;
    if let Some(known) = DATAGRAMS.get_ptr(key) {
        // SAFETY: the map's values stay in place while a program runs; another processor may recycle
        // this one, which at worst sends a fragment another way.
        let known = unsafe { *known };
        if now.wrapping_sub(known.since_ns) < LIFETIME_NS {
            return known.flow_hash;
        }
        stale = true;
    }
    let entry = Datagram { since_ns: now, flow_hash, reserved: 0 };
    if DATAGRAMS.insert(key, entry, if stale { BPF_ANY } else { BPF_NOEXIST }.into()).is_err()
        && let Some(first) = DATAGRAMS.get_ptr(key)
    {
        // Another processor had a fragment of the same datagram at the same time, and was first.
        // SAFETY: as above.
        return unsafe { (*first).flow_hash };
    }
    flow_hash
}

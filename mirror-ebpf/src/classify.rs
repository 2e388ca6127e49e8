//! Whose frame it is, and which flow's.

use mirror_common::{
    bytes::Bytes,
    flow,
    headers::{Headers, Part},
};

use crate::{
    datagram::common_hash,
    own_traffic::{leads_to_sensor, may_lead_to_sensor},
};

/// What the capture needs to know of a frame.
pub enum Class {
    /// A datagram of the agent's, or an ICMP error that quotes one: mirroring such errors would answer a
    /// sensor that refuses with yet more datagrams for it to refuse.
    Own,
    /// Anything else, with the hash of its flow, the same for all fragments of a datagram.
    Flow(u32),
}

/// Makes `headers` [`Headers::NONE`]. In words that are written one by one: for what it knows to be zeros the compiler
/// calls `memset`, which goes byte by byte.
#[inline(always)]
fn clear(headers: &mut Headers) {
    let words = (&raw mut *headers).cast::<u32>();
    for index in 0..size_of::<Headers>() / size_of::<u32>() {
        // SAFETY: the words are those of `headers`, which is aligned to them; all of its bytes may be zero, and are in
        // `Headers::NONE`.
        unsafe { words.add(index).write_volatile(0) };
    }
}

/// Reads a frame's headers into `headers`, where those of the packet stay that an ICMP error quotes.
#[inline(always)]
pub fn classify<B: Bytes>(frame: B, headers: &mut Headers) -> Class {
    clear(headers);
    headers.read(frame);
    if may_lead_to_sensor(headers) && leads_to_sensor(headers) != 0 {
        return Class::Own;
    }
    let mut hash = flow::hash(headers);
    if headers.part != Part::Whole {
        hash = common_hash(headers, hash);
    }
    let quote = headers.quote(frame);
    if quote != 0 && headers.read_quoted(frame, quote) && leads_to_sensor(headers) != 0 {
        return Class::Own;
    }
    Class::Flow(hash)
}

//! Whose frame it is, and which flow's.

use core::hint::black_box;

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

/// [`Headers::NONE`], in a number that the compiler knows nothing of: it would call `memset` for a constant, which
/// goes byte by byte.
#[inline(always)]
fn blank() -> Headers {
    let zero = black_box(0_u32);
    Headers { source: [zero; 4], destination: [zero; 4], fragment_id: zero, at: zero, ..Headers::NONE }
}

/// Reads a frame's headers into `headers`, where those of the packet stay that an ICMP error quotes.
#[inline(always)]
pub fn classify<B: Bytes>(frame: B, headers: &mut Headers) -> Class {
    *headers = blank();
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

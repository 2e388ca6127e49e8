//! Whose frame it is, and which flow's.

use mirror_common::{
    flow,
    headers::{Headers, Part},
};

use crate::{datagram::common_hash, own_traffic::leads_to_sensor, skb::Skb};

/// What the capture needs to know of a frame.
pub enum Class {
    /// A datagram of the agent's, or an ICMP error that quotes one: mirroring such errors would answer a
    /// sensor that refuses with yet more datagrams for it to refuse.
    Own,
    /// Anything else, with the hash of its flow, the same for all fragments of a datagram.
    Flow(u32),
}

/// Reads a frame's headers into `headers`, where those of the packet stay that an ICMP error quotes.
#[inline(always)]
pub fn classify(skb: Skb, headers: &mut Headers) -> Class {
    *headers = Headers::NONE;
    headers.read(skb);
    if leads_to_sensor(headers) != 0 {
        return Class::Own;
    }
    let mut hash = flow::hash(headers);
    if headers.part != Part::Whole {
        hash = common_hash(headers, hash);
    }
    let quote = headers.quote(skb);
    if quote != 0 && headers.read_quoted(skb, quote) && leads_to_sensor(headers) != 0 {
        return Class::Own;
    }
    Class::Flow(hash)
}

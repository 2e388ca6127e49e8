//! Keeps the fragments of a datagram together in a replay, as mirror-ebpf/src/datagram.rs does live.

use mirror_common::{
    flow,
    headers::{Headers, Part},
};

/// Datagrams that are remembered at once. Where two meet in one place the later one stays.
const PLACES: usize = 4096;

/// How long a datagram's number is not taken for another's, in the capture's nanoseconds: as live.
const LIFETIME_NS: u64 = 1_000_000_000;

#[derive(Clone, Copy, Debug, Default)]
struct Datagram {
    /// [`flow::datagram`]
    number: u64,
    /// Time in the capture of the fragment that came first.
    since_ns: u64,
    flow_hash: u32,
    is_known: bool,
}

/// The datagrams whose fragments are passing by.
#[derive(Debug)]
pub struct Datagrams(Box<[Datagram]>);

impl Datagrams {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self(vec![Datagram::default(); PLACES].into())
    }

    /// The flow hash of `frame`, captured at `time_ns`. Only a datagram's first fragment has ports, so all
    /// fragments take the hash of the one that came first.
    pub fn flow_hash(&mut self, frame: &[u8], time_ns: u64) -> u32 {
        let headers = Headers::of(frame);
        let flow_hash = flow::hash(&headers);
        if headers.part == Part::Whole {
            return flow_hash;
        }
        let number = flow::datagram(&headers);
        let place = &mut self.0[number as usize % PLACES];
        if place.is_known && place.number == number && time_ns.abs_diff(place.since_ns) < LIFETIME_NS {
            return place.flow_hash;
        }
        *place = Datagram { number, since_ns: time_ns, flow_hash, is_known: true };
        flow_hash
    }
}

impl Default for Datagrams {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An IPv4 fragment of datagram `id` at `offset` (in units of 8 bytes), with ports or without.
    fn fragment(id: u16, offset: u16, more: bool) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
        frame.extend([0x45, 0, 0, 48]);
        frame.extend(id.to_be_bytes());
        frame.extend((offset | u16::from(more) << 13).to_be_bytes());
        frame.extend([64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend([0x12, 0x34, 0, 53, 0, 28, 0, 0]);
        frame.extend([offset as u8; 20]);
        frame
    }

    #[test]
    fn fragments_follow_the_one_that_came_first() {
        let mut datagrams = Datagrams::new();
        let first = datagrams.flow_hash(&fragment(7, 0, true), 0);
        assert_eq!(datagrams.flow_hash(&fragment(7, 3, true), 10), first);
        assert_eq!(datagrams.flow_hash(&fragment(7, 6, false), 20), first);
        assert_ne!(datagrams.flow_hash(&fragment(8, 3, true), 30), first, "another datagram has no ports");
        // Where a later one comes first, the first one follows it.
        let later = datagrams.flow_hash(&fragment(9, 3, true), 40);
        assert_eq!(datagrams.flow_hash(&fragment(9, 0, true), 50), later);
    }

    #[test]
    fn a_number_is_used_again_after_its_lifetime() {
        let mut datagrams = Datagrams::new();
        let first = datagrams.flow_hash(&fragment(7, 0, true), 0);
        assert_ne!(datagrams.flow_hash(&fragment(7, 3, false), LIFETIME_NS), first);
    }
}

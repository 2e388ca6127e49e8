//! Adds samples up by flow, in bounded memory.

use std::{
    cmp::Reverse,
    collections::{HashMap, hash_map::Entry},
};

use super::{
    answer::{Answer, Flow},
    key::Key,
};

/// Flows that are counted at a time. Where there are more, the lighter half is forgotten: of those in an answer none is.
const FLOWS_MAX: usize = 8192;

/// A frame that was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// How many frames it stands for.
    pub weight: u32,
    /// Bytes of the frame on the wire.
    pub wire_len: u32,
    /// [`flow::hash`](mirror_common::flow::hash), of a fragment that of its datagram's first one.
    pub flow_hash: u32,
    /// Bytes of it that were kept.
    pub captured_len: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    frames: u64,
    bytes: u64,
}

/// Sums by flow, since they were last taken.
#[derive(Debug, Default)]
pub struct Table {
    sums: HashMap<Key, Sum>,
    /// Whose fragments are those with this hash.
    datagrams: HashMap<u32, Key>,
    samples: u64,
    frames: u64,
    /// Samples that were lost on their way here.
    pub missed: u64,
}

impl Table {
    /// Counts a frame that begins with `bytes`.
    pub fn add(&mut self, sample: &Sample, bytes: &[u8]) {
        let weight = u64::from(sample.weight);
        self.samples += 1;
        self.frames += weight;
        let key = self.key(sample.flow_hash, bytes);
        let sum = match self.sums.entry(key) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(Sum::default()),
        };
        sum.frames += weight;
        sum.bytes += weight * u64::from(sample.wire_len);
        if self.sums.len() > FLOWS_MAX {
            self.forget_light();
        }
    }

    fn key(&mut self, flow_hash: u32, bytes: &[u8]) -> Key {
        let (key, is_later_fragment) = Key::of(bytes);
        if !is_later_fragment {
            self.datagrams.insert(flow_hash, key);
            return key;
        }
        match self.datagrams.get(&flow_hash) {
            Some(datagram) if datagram.has_addresses_of(&key) => *datagram,
            _ => key,
        }
    }

    fn forget_light(&mut self) {
        let mut bytes: Vec<u64> = self.sums.values().map(|sum| sum.bytes).collect();
        let (_, middle, _) = bytes.select_nth_unstable(FLOWS_MAX / 2);
        let middle = *middle;
        // Of those in the middle, which may be nearly all, as many as there is room for.
        let mut room = FLOWS_MAX / 2 - bytes.iter().filter(|bytes| **bytes > middle).count();
        self.sums.retain(|_, sum| {
            let is_middle = sum.bytes == middle && room > 0;
            room -= usize::from(is_middle);
            sum.bytes > middle || is_middle
        });
        self.datagrams.clear();
    }

    /// Takes the `most` busiest flows out, and begins anew.
    pub fn take(&mut self, seconds: f64, most: usize) -> Answer {
        let mut busiest: Vec<(Key, Sum)> = self.sums.drain().collect();
        busiest.sort_unstable_by_key(|(_, sum)| Reverse((sum.bytes, sum.frames)));
        let flows: Vec<Flow> =
            busiest.iter().take(most).map(|(key, sum)| key.flow(sum.frames, sum.bytes)).collect();
        let sampled_one_in = (self.frames + self.samples / 2).checked_div(self.samples).unwrap_or(1).max(1);
        let answer = Answer { sampled_one_in, seconds, missed: self.missed, flows };
        self.clear();
        answer
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(number: u32) -> Vec<u8> {
        let [_, a, b, c] = number.to_be_bytes();
        let mut bytes =
            vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0, 40, 0, 7, 0, 0, 64, 17, 0, 0];
        bytes.extend([10, a, b, c, 192, 0, 2, 1, 0x13, 0x88, 0, 53]);
        bytes
    }

    fn sample(weight: u32, wire_len: u32) -> Sample {
        Sample { weight, wire_len, flow_hash: 1, captured_len: 38 }
    }

    #[test]
    fn the_busiest_come_first_with_all_that_they_stand_for() {
        let mut table = Table::default();
        table.add(&sample(1, 60), &frame(1));
        table.add(&sample(10, 100), &frame(2));
        table.add(&sample(10, 50), &frame(2));
        let answer = table.take(0.5, 1);
        let busiest = Flow {
            protocol: "udp".into(),
            a: "10.0.0.2:5000".into(),
            b: "192.0.2.1:53".into(),
            frames: 20,
            bytes: 1500,
        };
        assert_eq!(answer, Answer { sampled_one_in: 7, seconds: 0.5, missed: 0, flows: vec![busiest] });
        assert_eq!(table.take(1.0, 1).flows, []);
    }

    #[test]
    fn later_fragments_belong_to_the_flow_of_the_first() {
        let mut table = Table::default();
        let mut later = frame(1);
        later[21] = 100;
        later.truncate(34);
        table.add(&sample(1, 1514), &frame(1));
        table.add(&sample(1, 500), &later);
        table.add(&Sample { flow_hash: 2, ..sample(1, 400) }, &later);
        let flows = table.take(1.0, 9).flows;
        let ends: Vec<_> = flows.iter().map(|flow| (flow.a.as_str(), flow.bytes)).collect();
        assert_eq!(ends, [("10.0.0.1:5000", 2014), ("10.0.0.1", 400)]);
    }

    #[test]
    fn memory_is_bounded_and_the_busiest_stay() {
        let mut table = Table::default();
        for number in 0..50_000 {
            table.add(&sample(1, 60), &frame(number % 40_000 + 1000));
            table.add(&sample(1, 60), &frame(number % 40));
            assert!(table.sums.len() <= FLOWS_MAX);
        }
        let answer = table.take(1.0, 40);
        assert!(answer.flows.iter().all(|flow| flow.frames == 1250), "{answer:?}");
    }
}

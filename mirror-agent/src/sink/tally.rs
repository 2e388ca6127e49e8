//! Decapsulating and counting.

use std::collections::BTreeMap;

use mirror_common::{
    ethernet,
    geneve::{self, Metadata, Payload},
    vxlan,
};
use serde::Serialize;

use crate::cli::Encap;

/// What a sink received. `datagrams` is `frames + control + malformed`. Serialised, it is the JSON report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Version of the report's format.
    pub schema: u32,
    /// UDP datagrams received.
    pub datagrams: u64,
    /// Ethernet frames taken out of them.
    pub frames: u64,
    /// Bytes of these frames, without outer headers.
    pub bytes: u64,
    /// Datagrams that are not what is expected, or hold less than an Ethernet header.
    pub malformed: u64,
    /// GENEVE's messages between tunnel endpoints (the O bit), which carry no frames.
    pub control: u64,
    /// Frames of each network.
    pub vnis: BTreeMap<u32, u64>,
    /// Datagrams that the kernel dropped before the sink could read them.
    pub kernel_drops: u64,
}

/// A frame as it came out of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received<'a> {
    /// Its network.
    pub vni: u32,
    /// What the mirror tells of it.
    pub metadata: Option<Metadata>,
    /// From the Ethernet header on.
    pub frame: &'a [u8],
}

impl Tally {
    #[must_use]
    pub fn new() -> Self {
        Self {
            schema: 1,
            datagrams: 0,
            frames: 0,
            bytes: 0,
            malformed: 0,
            control: 0,
            vnis: BTreeMap::new(),
            kernel_drops: 0,
        }
    }

    /// Counts a UDP payload, and returns what is inside where that is a frame.
    pub fn count<'a>(&mut self, encap: Encap, payload: &'a [u8]) -> Option<Received<'a>> {
        self.datagrams += 1;
        let payload = match encap {
            Encap::Geneve => geneve::decapsulate(payload),
            Encap::Vxlan => match vxlan::decapsulate(payload) {
                Some((vni, frame)) => Payload::Frame { vni, metadata: None, frame },
                None => Payload::Malformed,
            },
        };
        match payload {
            Payload::Frame { vni, metadata, frame } if frame.len() >= ethernet::HEADER_LEN as usize => {
                self.frames += 1;
                self.bytes += frame.len() as u64;
                *self.vnis.entry(vni).or_default() += 1;
                Some(Received { vni, metadata, frame })
            }
            Payload::Control => {
                self.control += 1;
                None
            }
            Payload::Frame { .. } | Payload::Malformed => {
                self.malformed += 1;
                None
            }
        }
    }
}

impl Default for Tally {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagram(vni: u32, frame: &[u8]) -> Vec<u8> {
        [&vxlan::header(vni), frame].concat()
    }

    #[test]
    fn frames_are_counted_by_vni() {
        let mut tally = Tally::new();
        let large = datagram(vxlan::VNI_MAX, &[1; 9000]);
        let small = datagram(0, &[2; 14]);
        let received = |vni, frame| Some(Received { vni, metadata: None, frame });
        let mut count = |payload| tally.count(Encap::Vxlan, payload);
        assert_eq!(count(&large), received(vxlan::VNI_MAX, &[1; 9000]));
        assert_eq!(count(&small), received(0, &[2; 14]), "an Ethernet header alone is a frame");
        assert_eq!(count(&small), received(0, &[2; 14]));
        assert_eq!((tally.datagrams, tally.frames, tally.bytes, tally.malformed), (3, 3, 9028, 0));
        assert_eq!(tally.vnis, BTreeMap::from([(0, 2), (vxlan::VNI_MAX, 1)]));
    }

    #[test]
    fn what_is_no_frame_in_vxlan_is_malformed() {
        let mut no_flag = datagram(7, &[0; 60]);
        no_flag[0] = 0;
        let cases = [
            vec![],
            vec![8],
            vxlan::header(7)[..7].to_vec(),
            datagram(7, &[]),
            datagram(7, &[0; 13]),
            no_flag,
        ];
        let mut tally = Tally::new();
        for case in &cases {
            assert_eq!(tally.count(Encap::Vxlan, case), None, "{case:?}");
        }
        let expected = Tally { datagrams: cases.len() as u64, malformed: cases.len() as u64, ..Tally::new() };
        assert_eq!(tally, expected);
    }

    #[test]
    fn flags_other_than_i_and_reserved_bits_do_not_matter() {
        let mut noisy = datagram(5, &[0; 14]);
        noisy[..4].copy_from_slice(&[0xff; 4]);
        noisy[7] = 0xff;
        assert_eq!(Tally::new().count(Encap::Vxlan, &noisy).map(|received| received.vni), Some(5));
    }

    #[test]
    fn geneve_has_frames_messages_and_what_is_malformed() {
        let metadata = Metadata { time_ns: 1, wire_len: 60, direction: 0, ifindex: 3 };
        let option = metadata.option();
        let right = [&geneve::header(9, option.len())[..], &option, &[5; 14]].concat();
        let mut tally = Tally::new();
        let expected = Received { vni: 9, metadata: Some(metadata), frame: &[5; 14] };
        assert_eq!(tally.count(Encap::Geneve, &right), Some(expected));
        let mut control = right.clone();
        control[1] = 0x80;
        let no_frame = &right[..right.len() - 1];
        for payload in [&control[..], no_frame, &datagram(9, &[0; 60])] {
            assert_eq!(tally.count(Encap::Geneve, payload), None);
        }
        assert_eq!((tally.datagrams, tally.frames, tally.control, tally.malformed), (4, 1, 1, 2));
        assert_eq!(tally.count(Encap::Vxlan, &right), None, "one is not taken for the other");
    }
}

//! Decapsulating and counting.

use std::collections::BTreeMap;

use mirror_common::{ethernet, vxlan};
use serde::Serialize;

/// What a sink received. `datagrams` is `frames + malformed`. Serialised, it is the JSON report.
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
    /// Datagrams that are not VXLAN, or hold less than an Ethernet header.
    pub malformed: u64,
    /// Frames of each VXLAN network.
    pub vnis: BTreeMap<u32, u64>,
    /// Datagrams that the kernel dropped before the sink could read them.
    pub kernel_drops: u64,
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
            vnis: BTreeMap::new(),
            kernel_drops: 0,
        }
    }

    /// Counts a UDP payload, and returns the VNI and the frame inside where there is one.
    pub fn count<'a>(&mut self, payload: &'a [u8]) -> Option<(u32, &'a [u8])> {
        self.datagrams += 1;
        let Some((vni, frame)) =
            vxlan::decapsulate(payload).filter(|(_, frame)| frame.len() >= ethernet::HEADER_LEN as usize)
        else {
            self.malformed += 1;
            return None;
        };
        self.frames += 1;
        self.bytes += frame.len() as u64;
        *self.vnis.entry(vni).or_default() += 1;
        Some((vni, frame))
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
        assert_eq!(tally.count(&large), Some((vxlan::VNI_MAX, &[1; 9000][..])));
        assert_eq!(tally.count(&small), Some((0, &[2; 14][..])), "an Ethernet header alone is a frame");
        assert_eq!(tally.count(&small), Some((0, &[2; 14][..])));
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
            assert_eq!(tally.count(case), None, "{case:?}");
        }
        let expected = Tally { datagrams: cases.len() as u64, malformed: cases.len() as u64, ..Tally::new() };
        assert_eq!(tally, expected);
    }

    #[test]
    fn flags_other_than_i_and_reserved_bits_do_not_matter() {
        let mut noisy = datagram(5, &[0; 14]);
        noisy[..4].copy_from_slice(&[0xff; 4]);
        noisy[7] = 0xff;
        assert_eq!(Tally::new().count(&noisy).map(|(vni, _)| vni), Some(5));
    }
}

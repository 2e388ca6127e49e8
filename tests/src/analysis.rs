//! What tshark finds wrong with a capture: segments that are missing or late, and checksums.

use std::path::Path;

use crate::{agent, tshark};

/// Faults, by tshark's names.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Analysis {
    pub frames: usize,
    /// `tcp.analysis.lost_segment`
    pub lost_segments: usize,
    /// `tcp.analysis.ack_lost_segment`
    pub unseen_acknowledged: usize,
    /// `tcp.analysis.out_of_order`
    pub out_of_order: usize,
    /// `tcp.analysis.retransmission`: no fault of a mirror.
    pub retransmissions: usize,
    /// Good ones of `ip.checksum.status`, `tcp.checksum.status` and `udp.checksum.status`.
    pub good_checksums: usize,
    /// UDP over IPv6 without a checksum, which is for tunnels only (RFC 6935).
    pub forbidden_zeros: usize,
    /// TCP sums of all ones where 0 says the same (`tcp.checksum.ffff`): the kernel's own software writes them
    /// (net/core/dev.c, `skb_checksum_help`), every receiver takes them, and tshark calls them bad.
    pub all_ones: usize,
    /// All others.
    pub bad_checksums: usize,
}

const FIELDS: [&str; 8] = [
    "tcp.analysis.lost_segment",
    "tcp.analysis.ack_lost_segment",
    "tcp.analysis.out_of_order",
    "tcp.analysis.retransmission",
    "tcp.checksum.ffff",
    "ip.checksum.status",
    "tcp.checksum.status",
    "udp.checksum.status",
];
/// Which of the three statuses is TCP's.
const TCP: usize = 1;
const CHECK: [&str; 4] = [
    "ip.check_checksum:TRUE",
    "tcp.check_checksum:TRUE",
    "udp.check_checksum:TRUE",
    "tcp.desegment_tcp_streams:FALSE",
];
/// epan/proto.h, `PROTO_CHECKSUM_E_BAD`.
const BAD: &str = "0";
/// `PROTO_CHECKSUM_E_GOOD`
const GOOD: &str = "1";
/// `PROTO_CHECKSUM_E_NOT_PRESENT`: UDP over IPv4 may go without.
const ABSENT: &str = "3";
/// `PROTO_CHECKSUM_E_ILLEGAL`
const FORBIDDEN: &str = "4";

impl Analysis {
    /// Of the frames that `filter` lets through.
    ///
    /// # Panics
    /// Where tshark fails.
    #[must_use]
    pub fn of(capture: &Path, filter: &str) -> Self {
        let mut analysis = Self::default();
        for row in tshark::fields(capture, filter, &FIELDS, &CHECK) {
            let [lost, unseen, order, again, ones, sums @ ..] = &row[..] else { panic!("tshark: {row:?}") };
            analysis.frames += 1;
            analysis.lost_segments += usize::from(!lost.is_empty());
            analysis.unseen_acknowledged += usize::from(!unseen.is_empty());
            analysis.out_of_order += usize::from(!order.is_empty());
            analysis.retransmissions += usize::from(!again.is_empty());
            for (protocol, sum) in sums.iter().enumerate() {
                for status in sum.split(',').filter(|status| !status.is_empty()) {
                    *match status {
                        ABSENT => continue,
                        GOOD => &mut analysis.good_checksums,
                        FORBIDDEN => &mut analysis.forbidden_zeros,
                        BAD if protocol == TCP && !ones.is_empty() => &mut analysis.all_ones,
                        _ => &mut analysis.bad_checksums,
                    } += 1;
                }
            }
        }
        analysis
    }

    /// Checks that it found nothing, in at least `least` frames with a checksum each.
    ///
    /// # Panics
    /// Where it did.
    pub fn assert_clean(&self, least: usize) {
        println!("{self:?}");
        assert!(self.frames >= least && self.good_checksums >= least, "too little was looked at: {self:?}");
        // Redirect mode sends on the processor that a frame comes by: an acknowledgement may overtake what it
        // acknowledges, and a sender that is moved to another processor itself, as with mirred (`order` counts both). That
        // no frame is missing, and none is another, is for `flows::assert_same` to say.
        let of_order = if agent::is_redirecting() { *self } else { Self::default() };
        let clean = Self {
            unseen_acknowledged: of_order.unseen_acknowledged,
            lost_segments: of_order.lost_segments,
            out_of_order: of_order.out_of_order,
            frames: self.frames,
            good_checksums: self.good_checksums,
            retransmissions: self.retransmissions,
            all_ones: self.all_ones,
            ..Self::default()
        };
        assert_eq!(*self, clean);
    }
}

//! A frame as it lies in a ring: this header, then the frame's bytes.

use crate::{headers::Headers, ip, settings::GsoBits};

/// Which way a frame crossed the interface.
#[repr(u16)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Received by the host.
    Ingress = 0,
    /// Sent by the host.
    Egress = 1,
}

impl Direction {
    /// Both, in the order of their numbers.
    pub const ALL: [Self; 2] = [Self::Ingress, Self::Egress];

    /// The direction with this number, or `None`.
    #[inline(always)]
    #[must_use]
    pub const fn from_number(number: u16) -> Option<Self> {
        match number {
            0 => Some(Self::Ingress),
            1 => Some(Self::Egress),
            _ => None,
        }
    }
}

/// Stands for a [`Direction`] in a [`RecordHeader`] where none is known, as in most captures.
pub const DIRECTION_UNKNOWN: u16 = 2;

/// How the kernel put off cutting a frame (`skb_shared_info`'s `gso_type`), for the innermost packet of it
/// that is to be cut.
#[repr(u16)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Segmentation {
    /// It is not to be cut.
    None = 0,
    /// Into TCP segments: `SKB_GSO_TCPV4`, `SKB_GSO_TCPV6`.
    Tcp = 1,
    /// Into datagrams: `SKB_GSO_UDP_L4`.
    Udp = 2,
    /// Into the fragments of one datagram: `SKB_GSO_UDP`, "UFO".
    Fragments = 3,
    /// As [`Self::Tcp`], and the segments share one IPv4 identification: `SKB_GSO_TCP_FIXEDID`, which says
    /// that of received segments that were merged.
    TcpFixedId = 4,
}

impl Segmentation {
    /// The one with this number, or `None`.
    #[inline(always)]
    #[must_use]
    pub const fn from_number(number: u16) -> Option<Self> {
        match number {
            0 => Some(Self::None),
            1 => Some(Self::Tcp),
            2 => Some(Self::Udp),
            3 => Some(Self::Fragments),
            4 => Some(Self::TcpFixedId),
            _ => None,
        }
    }

    /// What `skb_shared_info`'s `gso_type` says, where its bits are these. [`Self::None`] for kinds that are none
    /// of these, such as SCTP's.
    #[inline(always)]
    #[must_use]
    pub const fn of_gso_type(gso_type: u32, bits: &GsoBits) -> Self {
        // Of the header that is cut behind: the innermost.
        let fixed_id = if gso_type & bits.tunnel == 0 { bits.fixed_id } else { bits.fixed_inner_id };
        if gso_type & bits.tcp != 0 {
            if gso_type & fixed_id == 0 { Self::Tcp } else { Self::TcpFixedId }
        } else if gso_type & bits.udp != 0 {
            Self::Udp
        } else if gso_type & bits.fragments != 0 {
            Self::Fragments
        } else {
            Self::None
        }
    }

    /// What a super-frame's headers let expect, where the kernel's own word cannot be had. A tunnel is taken to
    /// carry TCP, as nearly all super-frames in tunnels do.
    #[inline(always)]
    #[must_use]
    pub const fn of_headers(headers: &Headers) -> Self {
        match headers.protocol {
            ip::TCP | ip::IPV4 | ip::IPV6 | ip::GRE => Self::Tcp,
            // VXLAN (RFC 7348), its port in Linux before there was that, and GENEVE (RFC 8926).
            ip::UDP if matches!(headers.destination_port, 4789 | 8472 | 6081) => Self::Tcp,
            ip::UDP => Self::Udp,
            _ => Self::None,
        }
    }
}

/// Where a checksum is that the stack left to the card (`CHECKSUM_PARTIAL`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChecksumPlace {
    /// Offset from the frame's first byte, its VLAN tag included, from which on the sum is taken: where a
    /// transport header begins.
    pub start: u16,
    /// Offset of the checksum's field from there: 16 in TCP, 6 in UDP, 8 in SCTP.
    pub field: u16,
}

impl ChecksumPlace {
    /// The largest start that [`Self::packed`] has room for.
    pub const START_MAX: u16 = 0x0fff;
    /// The largest offset of a field that [`Self::packed`] has room for.
    pub const FIELD_MAX: u16 = 30;

    /// In 16 bits: the start in the upper 12, half of the field's offset in the lower 4. 0, which says that
    /// no checksum was left, where there is no room for it.
    #[inline(always)]
    #[must_use]
    pub const fn packed(self) -> u16 {
        if self.start > Self::START_MAX || self.field > Self::FIELD_MAX || self.field & 1 != 0 {
            return 0;
        }
        (self.start << 4) | (self.field / 2)
    }

    /// The reverse. `None` where no checksum was left.
    #[inline(always)]
    #[must_use]
    pub const fn unpacked(packed: u16) -> Option<Self> {
        if packed == 0 { None } else { Some(Self { start: packed >> 4, field: (packed & 0xf) * 2 }) }
    }
}

/// What stands in front of each frame in a ring. All integers in host order.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordHeader {
    /// `CLOCK_MONOTONIC` at capture in nanoseconds; 0 where nobody asked for it
    /// ([`Settings::time_stamps`](crate::settings::Settings::time_stamps)). In a replay: since 1970.
    pub time_ns: u64,
    /// The interface's number. In a replay: its number among those of all captures.
    pub ifindex: u32,
    /// [`flow::hash`](crate::flow::hash).
    pub flow_hash: u32,
    /// Bytes of the frame that follow this header. The record may be longer: see [`SIZE_CLASSES`].
    pub captured_len: u32,
    /// Bytes of the frame as it was on the wire, its VLAN tag included.
    pub original_len: u32,
    /// [`Direction`] as a number, or [`DIRECTION_UNKNOWN`].
    pub direction: u16,
    /// How the frame is to be cut: [`Segmentation`] as a number.
    pub segmentation: u16,
    /// Bytes of payload of each segment (`gso_size`); 0 where it is not to be cut.
    pub gso_size: u16,
    /// Where the checksum is that was left to the card: [`ChecksumPlace::packed`]; 0 where none was.
    pub checksum: u16,
}

/// Bytes of a [`RecordHeader`]. A multiple of 8, so that the frame that follows is aligned.
pub const HEADER_LEN: usize = size_of::<RecordHeader>();
const _: () = assert!(HEADER_LEN == 32);

/// Room for frame bytes in a record, ascending. The kernel reserves ring space in sizes that the
/// verifier knows, so a frame takes the smallest class that holds it. The classes below an Ethernet
/// frame's 1514 bytes matter for speed, those above are for jumbo frames and super-frames.
pub const SIZE_CLASSES: [usize; 12] =
    [64, 128, 256, 512, 1024, 1536, 2048, 4096, 9216, 16384, 32768, FRAME_MAX];

/// The longest frame that a record holds: a super-frame of 65,535 bytes of IP with its Ethernet header
/// and VLAN tags, rounded up to 8.
pub const FRAME_MAX: usize = 65_568;

/// Rings at most. More threads than this do not send faster than a network takes.
pub const RINGS_MAX: usize = 16;

/// What a reader and the hooks tell each other about a ring. One cache line each, so that rings do not
/// slow each other.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug)]
pub struct Doorbell {
    /// 1 while the reader sleeps and wants to be woken by the next record. The hook that rings sets it
    /// back to 0.
    pub armed: u32,
    /// Fills the cache line.
    pub reserved: [u32; 15],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_checksums_are_packed_and_unpacked() {
        assert_eq!(ChecksumPlace { start: 34, field: 16 }.packed(), 34 << 4 | 8);
        assert_eq!(ChecksumPlace::unpacked(0), None);
        for start in 0..=ChecksumPlace::START_MAX {
            for field in (0..=ChecksumPlace::FIELD_MAX).step_by(2) {
                let place = ChecksumPlace { start, field };
                let expected = if start == 0 && field == 0 { None } else { Some(place) };
                assert_eq!(ChecksumPlace::unpacked(place.packed()), expected);
            }
        }
    }

    #[test]
    fn a_place_without_room_is_none() {
        for (start, field) in [(4096, 16), (u16::MAX, 6), (34, 15), (34, 32), (34, u16::MAX - 1)] {
            assert_eq!(ChecksumPlace { start, field }.packed(), 0, "{start} {field}");
        }
    }

    #[test]
    fn gso_types_of_kernels_before_6_18() {
        const DODGY: u32 = 1 << 1;
        const ECN: u32 = 1 << 2;
        const UDP_TUNNEL: u32 = 1 << 10;
        const SCTP: u32 = 1 << 14;
        const FRAGLIST: u32 = 1 << 18;
        for (gso_type, kind) in [
            (0, Segmentation::None),
            (1 | DODGY | ECN, Segmentation::Tcp),
            (1 << 4 | UDP_TUNNEL, Segmentation::Tcp),
            (1 | 1 << 3, Segmentation::TcpFixedId),
            (1 | 1 << 3 | UDP_TUNNEL, Segmentation::TcpFixedId),
            (1 << 17 | DODGY | FRAGLIST, Segmentation::Udp),
            (1 << 16 | DODGY, Segmentation::Fragments),
            (SCTP, Segmentation::None),
            (UDP_TUNNEL, Segmentation::None),
        ] {
            assert_eq!(Segmentation::of_gso_type(gso_type, &GsoBits::USUAL), kind, "{gso_type:#x}");
        }
    }

    #[test]
    fn the_innermost_identification_counts() {
        let bits = GsoBits { fixed_id: 1 << 30, fixed_inner_id: 1 << 31, ..GsoBits::USUAL };
        const GRE: u32 = 1 << 6;
        for (gso_type, kind) in [
            (1 | 1 << 3, Segmentation::Tcp),
            (1 | 1 << 30, Segmentation::TcpFixedId),
            (1 | 1 << 31, Segmentation::Tcp),
            (1 | 1 << 30 | GRE, Segmentation::Tcp),
            (1 | 1 << 31 | GRE, Segmentation::TcpFixedId),
        ] {
            assert_eq!(Segmentation::of_gso_type(gso_type, &bits), kind, "{gso_type:#x}");
        }
    }

    #[test]
    fn super_frames_are_guessed_by_their_headers() {
        for (protocol, destination_port, kind) in [
            (ip::TCP, 4789, Segmentation::Tcp),
            (ip::UDP, 4788, Segmentation::Udp),
            (ip::UDP, 4789, Segmentation::Tcp),
            (ip::GRE, 0, Segmentation::Tcp),
            (ip::SCTP, 0, Segmentation::None),
        ] {
            let headers = Headers { protocol, destination_port, ..Headers::NONE };
            assert_eq!(Segmentation::of_headers(&headers), kind, "{protocol} {destination_port}");
        }
    }

    #[test]
    fn numbers_stand_for_what_they_came_from() {
        for number in 0..10 {
            let direction = Direction::from_number(number);
            assert_eq!(direction.map(|direction| direction as u16), (number < 2).then_some(number));
            let segmentation = Segmentation::from_number(number);
            assert_eq!(segmentation.map(|kind| kind as u16), (number < 5).then_some(number));
        }
    }
}

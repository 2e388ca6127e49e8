//! What user space and the kernel programs tell each other in redirect mode.
//!
//! A frame's clone goes one of two ways. Straight: to the interface that leads to the sensor, where the
//! encapsulating program puts the headers of a [`Template`] in front of it. Through the segmenter, a VXLAN device of
//! the agent's own, where something is left to do that only the kernel's stack does: cutting a super-frame,
//! completing a checksum, finding a neighbour, fragmenting.

use crate::pool::DESTINATIONS_MAX;

/// Room for the longest headers: Ethernet, IPv6, UDP, GENEVE with its option, 90 bytes; a multiple of 8.
pub const HEADERS_MAX: usize = 96;

/// Bytes of the headers from Ethernet to UDP, over IPv4: where the tunnel's own begin.
pub const TO_TUNNEL_V4: u32 = 42;
/// The same, over IPv6.
pub const TO_TUNNEL_V6: u32 = 62;

/// Templates of one sensor that take turns: a hook that still reads one is done with it long before its turn comes
/// again.
pub const TEMPLATES: usize = 8;

/// Templates of all sensors: those of one follow each other.
pub const TEMPLATES_ALL: usize = TEMPLATES * DESTINATIONS_MAX;

/// The place of a sensor's template, below [`TEMPLATES_ALL`].
#[inline(always)]
#[must_use]
pub const fn place(destination: u32, turn: u32) -> u32 {
    (destination % DESTINATIONS_MAX as u32) * TEMPLATES as u32 + turn % TEMPLATES as u32
}

/// Headers, aligned so that a copy takes few instructions.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Halves(pub [u16; HEADERS_MAX / 2]);

/// How datagrams to the sensor leave this host.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Template {
    /// Number of the interface that they leave through; 0 where there is no way at all.
    pub ifindex: u32,
    /// Number of the segmenter.
    pub segmenter: u32,
    /// 1 where `headers` are known; 0 where everything goes through the segmenter.
    pub is_known: u32,
    /// The longest packet that the path takes, in bytes of IP.
    pub packet_max: u32,
    /// Sum of what of the checksummed does not change, as `bpf_csum_diff` adds up: of the IPv4 header, or of the
    /// pseudo-header, and of everything from UDP on, over IPv6.
    pub sum: u32,
    /// UDP port that the segmenter sends to, in host order.
    pub segmenter_port: u32,
    /// Halves of the headers in wire order, zeros where datagrams differ.
    pub headers: Halves,
    /// `struct bpf_tunnel_key` as far as every kernel since 5.10 takes it.
    pub tunnel: TunnelKey,
    /// The sensor's UDP port, in host order.
    pub port: u16,
    /// 1 where the sensor has an IPv6 address.
    pub is_v6: u16,
}

impl Template {
    /// No way to the sensor.
    pub const NONE: Self = Self {
        ifindex: 0,
        segmenter: 0,
        is_known: 0,
        packet_max: 0,
        sum: 0,
        segmenter_port: 0,
        headers: Halves([0; HEADERS_MAX / 2]),
        tunnel: TunnelKey { id: 0, remote: [0; 4], tos: 0, ttl: 0, ext: 0, label: 0 },
        port: 0,
        is_v6: 0,
    };
}

/// The beginning of `struct bpf_tunnel_key` (linux/bpf.h).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunnelKey {
    /// Network identifier.
    pub id: u32,
    /// IPv4 address in host order in the first word, or IPv6 address in wire order.
    pub remote: [u32; 4],
    /// Type of service.
    pub tos: u8,
    /// Time to live.
    pub ttl: u8,
    /// Unused by the kernel.
    pub ext: u16,
    /// IPv6 flow label.
    pub label: u32,
}

/// Where a clone is on its way.
pub mod stage {
    /// No clone is on its way.
    pub const IDLE: u32 = 0;
    /// To the outgoing interface, as it is: the encapsulating program puts headers in front.
    pub const STRAIGHT: u32 = 1;
    /// To the segmenter.
    pub const SEGMENTER: u32 = 2;
    /// From the segmenter, as one datagram or more, to the outgoing interface.
    pub const DATAGRAMS: u32 = 3;
    /// A finished datagram leaves.
    pub const LEAVING: u32 = 4;
}

/// What the hook hands to the programs that its clone meets on its way, on the same processor, and what they hand
/// back.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Handoff {
    /// One of [`stage`].
    pub stage: u32,
    /// The template's [`place`].
    pub template: u32,
    /// The hash of the frame's flow.
    pub flow_hash: u32,
    /// Bytes kept of each frame.
    pub kept: u32,
    /// Bytes of the clone.
    pub len: u32,
    /// What went wrong on the way: an errno above 0, or 0.
    pub error: u32,
    /// 1 where the sensor has an IPv6 address, 0 where it has an IPv4 address.
    pub is_v6: u32,
    /// Network identifier of the frame's interface; valid where the clone goes to the segmenter, and where interfaces
    /// have their own.
    pub vni: u32,
    /// 1 where the frame's VLAN tag is in the metadata.
    pub is_tagged: u32,
    /// Number of the frame's interface; this and what follows is valid where headers tell.
    pub ifindex: u32,
    /// [`Direction`](crate::record::Direction) as a number.
    pub direction: u32,
    /// 0.
    pub padding: u32,
    /// When the frame was seen: nanoseconds since 1970.
    pub time_ns: u64,
    /// What the segmenter made of the clone: valid from [`stage::SEGMENTER`] on.
    pub made: Made,
}

/// What became of the datagrams that the segmenter made of one clone.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Made {
    /// UDP payload of the datagrams that left.
    pub payload: u64,
    /// Datagrams that left.
    pub datagrams: u32,
    /// Packets that did not.
    pub failed: u32,
    /// Datagrams that were cut.
    pub cut: u32,
    /// Datagrams that are longer than the path takes, where such are left out.
    pub too_big: u32,
    /// 1 where the fragments that are still to come are left out, since the first one is the whole datagram now.
    pub ends_early: u32,
    /// 0.
    pub padding: u32,
}

/// Bytes at the end of a probe by which the encapsulating program knows it: the agent's cookie, then the probe's
/// number, in host order.
pub const PROBE_LEN: u32 = 12;

/// Bytes kept of a probe.
pub const SIGHTING_MAX: usize = 160;

/// A probe as it was about to leave. It did not: the encapsulating program took it away.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Sighting {
    /// The probe's number; 0 is that none was seen.
    pub number: u32,
    /// Number of the interface.
    pub ifindex: u32,
    /// Bytes that follow, from the Ethernet header on.
    pub len: u32,
    /// 1 where a VLAN tag stands beside the bytes.
    pub is_tagged: u32,
    /// The packet.
    pub bytes: [u8; SIGHTING_MAX],
}

//! What user space decides before the kernel programs are loaded.
//!
//! The programs see it as constants, so that the verifier drops what is not asked for.

use crate::own::Ports;

/// Read-only data of the kernel programs.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Rings in use: 1 to [`RINGS_MAX`](crate::record::RINGS_MAX).
    pub rings: u32,
    /// Longest frame that the output takes, in bytes; longer ones are counted as too big. One that is to be cut
    /// may be as long as a record takes ([`FRAME_MAX`](crate::record::FRAME_MAX)): its segments are what has to
    /// fit.
    pub frame_max: u32,
    /// Bytes kept of a frame that goes as it is, at least an Ethernet header with a tag, so that no copy is made in
    /// vain. The segments of one that is to be cut, and one whose checksum is missing, are cut short later.
    pub snaplen: u32,
    /// The sensors' UDP ports.
    pub sensor_ports: Ports,
    /// One record in so many carries the time of its capture, by what its hook has taken on its processor: a power of
    /// two, 1 for every record; 0 for none.
    pub time_stamps: u32,
    /// 1 where frames meet a filter, whose instructions are put into the programs.
    pub has_filter: u32,
    /// Which flows are mirrored.
    pub select: Select,
    /// Where the kernel keeps what `__sk_buff` does not show.
    pub skb: SkbLayout,
    /// How frames are sent where the kernel programs do that.
    pub redirect: Redirect,
    /// What the XDP programs go by.
    pub xdp: XdpLayout,
}

/// Which flows are mirrored. Numbers of 64 bits are in halves, the lower one first, so that nothing needs padding.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Select {
    /// Flows with a greater [`draw`](crate::sample::draw) are left out; `u32::MAX` where none is.
    pub greatest_draw: u32,
    /// Key of that draw.
    pub sample_key: [u32; 2],
    /// What the budget counts: a [`Unit`](crate::budget::Unit); 0 where there is no budget.
    pub unit: u32,
    /// 1 where beginnings and ends of connections pass that are refused.
    pub passes_ends: u32,
    /// Key of flows' ranks.
    pub rank_key: [u32; 2],
    /// [`Plan::rate`](crate::budget::Plan::rate)
    pub rate: [u32; 2],
    /// [`Plan::depth`](crate::budget::Plan::depth)
    pub depth: [u32; 2],
    /// [`Plan::batch`](crate::budget::Plan::batch)
    pub batch: [u32; 2],
}

impl Select {
    /// All flows.
    pub const ALL: Self = Self {
        greatest_draw: u32::MAX,
        sample_key: [0; 2],
        unit: 0,
        passes_ends: 0,
        rank_key: [0; 2],
        rate: [0; 2],
        depth: [0; 2],
        batch: [0; 2],
    };
}

/// A number in halves, the lower one first.
#[inline(always)]
#[must_use]
pub const fn halves(number: u64) -> [u32; 2] {
    [number as u32, (number >> 32) as u32]
}

/// The reverse of [`halves`].
#[inline(always)]
#[must_use]
pub const fn whole([low, high]: [u32; 2]) -> u64 {
    (high as u64) << 32 | low as u64
}

/// Of redirect mode.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// 1 where the hooks send; 0 where they put frames into rings.
    pub is_on: u32,
    /// Whether the sensors have IPv4 or IPv6 addresses: one of [`family`].
    pub family: u32,
    /// Number of sensors: 1 to [`DESTINATIONS_MAX`](crate::pool::DESTINATIONS_MAX).
    pub destinations: u32,
    /// 1 where each sensor gets every frame; 0 where each flow goes to one.
    pub is_fanout: u32,
    /// What becomes of a datagram that is longer than the path takes: one of [`oversize`].
    pub oversize: u32,
    /// Bits that it takes to number the processors.
    pub cpu_bits: u32,
    /// By which this agent's probes are known: at random.
    pub cookie: [u32; 2],
    /// Bytes between UDP and a frame.
    pub tunnel_len: u32,
    /// 1 where that is GENEVE; 0 where it is VXLAN.
    pub is_geneve: u32,
    /// 1 where headers have the option with time, length, direction and interface.
    pub has_metadata: u32,
    /// 1 where interfaces have network identifiers of their own.
    pub has_vnis: u32,
}

impl Redirect {
    /// Frames go into rings.
    pub const OFF: Self = Self {
        is_on: 0,
        family: family::V4,
        destinations: 1,
        is_fanout: 0,
        oversize: oversize::FRAGMENT,
        cpu_bits: 0,
        cookie: [0; 2],
        tunnel_len: 0,
        is_geneve: 0,
        has_metadata: 0,
        has_vnis: 0,
    };
}

/// Of the sensors' addresses.
pub mod family {
    /// All are IPv4.
    pub const V4: u32 = 0;
    /// All are IPv6.
    pub const V6: u32 = 1;
    /// Some are IPv4, some IPv6.
    pub const MIXED: u32 = 2;
}

/// What becomes of a datagram that is longer than the path takes.
pub mod oversize {
    /// It goes in fragments.
    pub const FRAGMENT: u32 = 0;
    /// It is cut.
    pub const TRUNCATE: u32 = 1;
    /// It is left out.
    pub const DROP: u32 = 2;
}

/// Where this kernel keeps what it left to the card: offsets in bytes into structs of include/linux/skbuff.h,
/// which are laid out anew for each kernel and configuration.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SkbLayout {
    /// 1 where the rest is known; 0 where the programs must do without.
    pub is_known: u32,
    /// Of the part of `struct sk_buff` that has all of a checksum's fields. A multiple of 8.
    pub span: u32,
    /// Bytes of that part: 1 to [`SPAN_MAX`].
    pub span_len: u32,
    /// Of the byte with `ip_summed` in it, from `span` on.
    pub ip_summed: u32,
    /// The bits of that byte which are `ip_summed`.
    pub ip_summed_mask: u32,
    /// Their value for `CHECKSUM_PARTIAL`.
    pub ip_summed_partial: u32,
    /// Of `csum_start`, 16 bits, from `span` on; even.
    pub csum_start: u32,
    /// Of `csum_offset`, in the same way.
    pub csum_offset: u32,
    /// Of `mac_header`, in the same way.
    pub mac_header: u32,
    /// Of `head`, an address, in `struct sk_buff`.
    pub head: u32,
    /// Of `end`, 32 bits, in `struct sk_buff`: where `struct skb_shared_info` is, from `head` on.
    pub end: u32,
    /// Of `gso_type`, 32 bits, in `struct skb_shared_info`.
    pub gso_type: u32,
    /// What its bits mean.
    pub gso: GsoBits,
}

/// Most bytes in a [`SkbLayout::span`]. The fields are within 60 bytes in distributions' kernels from 5.10 to 7.3;
/// configurations for debugging add some.
pub const SPAN_MAX: usize = 96;

impl SkbLayout {
    /// Nothing is known.
    pub const UNKNOWN: Self = Self {
        is_known: 0,
        span: 0,
        span_len: 0,
        ip_summed: 0,
        ip_summed_mask: 0,
        ip_summed_partial: 0,
        csum_start: 0,
        csum_offset: 0,
        mac_header: 0,
        head: 0,
        end: 0,
        gso_type: 0,
        gso: GsoBits::USUAL,
    };
}

/// What an XDP program may use, and where this kernel keeps what `struct xdp_md` does not show: offsets in bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XdpLayout {
    /// 1 where the kernel copies frames in several pieces for the program (`bpf_xdp_load_bytes`, Linux 5.18).
    pub has_load_bytes: u32,
    /// 1 where the rest is known; 0 where super-frames go as they are.
    pub is_known: u32,
    /// Of `data_hard_start`, an address, in `struct xdp_buff`: where the frame's buffer begins.
    pub data_hard_start: u32,
    /// Of `frame_sz`, 32 bits, in `struct xdp_buff`: bytes of the buffer, `skb_shared_info` at its end included.
    pub frame_sz: u32,
    /// Bytes that `skb_shared_info` takes at the buffer's end: `SKB_DATA_ALIGN` of its size.
    pub shared_info_len: u32,
    /// Of `gso_size`, 16 bits, in `struct skb_shared_info`.
    pub gso_size: u32,
    /// Of `gso_type`, 32 bits, in `struct skb_shared_info`. What its bits mean: [`SkbLayout::gso`].
    pub gso_type: u32,
}

impl XdpLayout {
    /// Nothing is known, and no helper is there.
    pub const UNKNOWN: Self = Self {
        has_load_bytes: 0,
        is_known: 0,
        data_hard_start: 0,
        frame_sz: 0,
        shared_info_len: 0,
        gso_size: 0,
        gso_type: 0,
    };
}

/// Bits of `skb_shared_info.gso_type`: `SKB_GSO_*` in include/linux/skbuff.h. Some have moved from one kernel to
/// the next.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GsoBits {
    /// `SKB_GSO_TCPV4` and `SKB_GSO_TCPV6`.
    pub tcp: u32,
    /// `SKB_GSO_UDP_L4`.
    pub udp: u32,
    /// `SKB_GSO_UDP`.
    pub fragments: u32,
    /// `SKB_GSO_TCP_FIXEDID`: of the only IP header, or of the outer one.
    pub fixed_id: u32,
    /// `SKB_GSO_TCP_FIXEDID_INNER` (Linux 6.18): of the inner IP header. Before, one bit stood for both.
    pub fixed_inner_id: u32,
    /// Any of these says that there is an inner IP header.
    pub tunnel: u32,
}

impl GsoBits {
    /// As they were from Linux 4.18 to 6.17.
    pub const USUAL: Self = Self {
        tcp: 1 << 0 | 1 << 4,
        udp: 1 << 17,
        fragments: 1 << 16,
        fixed_id: 1 << 3,
        fixed_inner_id: 1 << 3,
        // GRE, IP in IP, and UDP tunnels, with and without checksums.
        tunnel: 0b11_1111 << 6,
    };
}

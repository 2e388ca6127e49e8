//! The layers of a frame, from Ethernet through tunnels down to the transport header that is to be cut or
//! completed.
//!
//! The kernel remembers where the inner headers of a tunnelled frame are. Here they are found by reading the
//! headers again. What a tunnel in UDP carries cannot be told for sure from a port, so each kind is tried, and
//! the one is taken that leads to the transport header whose place the kernel told.

use arrayvec::ArrayVec;
use mirror_common::{bytes::Bytes as _, ethernet, ip, udp};

use super::HEAD_MAX;

/// Bytes of a TCP header without options.
pub const TCP_LEN: usize = 20;

/// Layers at most: five IP headers, each with UDP or GRE behind it. The kernel refuses deeper nesting itself.
const LAYERS_MAX: usize = 10;

/// A header that changes with the length of what follows it. Offsets are from the frame's first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// IPv4, RFC 791.
    V4 {
        /// Offset.
        at: usize,
        /// Bytes with options.
        header_len: usize,
    },
    /// IPv6, RFC 8200.
    V6 {
        /// Offset.
        at: usize,
    },
    /// UDP around a tunnel. The layer in front of it is its IP header.
    Udp {
        /// Offset.
        at: usize,
    },
    /// GRE (RFC 2784, RFC 2890) with a checksum.
    Gre {
        /// Offset.
        at: usize,
    },
}

impl Layer {
    /// Offset of the header.
    pub fn at(self) -> usize {
        match self {
            Self::V4 { at, .. } | Self::V6 { at } | Self::Udp { at } | Self::Gre { at } => at,
        }
    }
}

/// What leads to a transport header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layers {
    /// The headers in front, from outside to inside. The last is the IP header of the transport header.
    pub list: ArrayVec<Layer, LAYERS_MAX>,
    /// Protocol of the transport header.
    pub protocol: u8,
    /// Its offset.
    pub at: usize,
    /// End of the innermost IP packet, as its header says; at most the frame's.
    pub end: usize,
    /// The field of the innermost IPv6 header or extension that says what follows the last header that each
    /// fragment carries; 0 in IPv4.
    pub next_header: usize,
    /// Where a fragment header goes in the innermost IPv6 packet; 0 in IPv4.
    pub fragment_at: usize,
    /// Whether the destination in the innermost IP header may not be the last one, which alone counts for
    /// checksums: there are IPv4 options or an IPv6 routing header.
    pub is_routed: bool,
}

/// Which transport header is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Goal {
    /// Its protocol, where that is known.
    pub protocol: Option<u8>,
    /// Its offset, where that is known.
    pub at: Option<usize>,
}

/// The way to the outermost header that fits `goal`. `None` where there is none, or something in front of it is
/// not understood.
pub fn find(frame: &[u8], goal: Goal) -> Option<Layers> {
    let mut walk = Walk { frame, goal, layers: Layers::default() };
    walk.ethernet(0)?;
    Some(walk.layers)
}

/// Each step gives `Some` once the goal is reached.
struct Walk<'a> {
    frame: &'a [u8],
    goal: Goal,
    layers: Layers,
}

impl Walk<'_> {
    fn half(&self, at: usize) -> Option<u16> {
        self.frame.half(u32::try_from(at).ok()?)
    }

    fn byte(&self, at: usize) -> Option<u8> {
        self.frame.get(at).copied()
    }

    fn push(&mut self, layer: Layer) -> Option<()> {
        self.layers.list.try_push(layer).ok()
    }

    fn ethernet(&mut self, at: usize) -> Option<()> {
        let mut at = at + ethernet::ADDRESSES_LEN as usize;
        while at < HEAD_MAX {
            let ethertype = self.half(at)?;
            at += 2;
            if !matches!(ethertype, ethernet::VLAN | ethernet::SERVICE_VLAN | ethernet::OLD_QINQ) {
                return self.network(ethertype, at);
            }
            // Control information, and then the type of what follows.
            at += 2;
        }
        None
    }

    fn network(&mut self, ethertype: u16, at: usize) -> Option<()> {
        match ethertype {
            ethernet::IPV4 => self.v4(at),
            ethernet::IPV6 => self.v6(at),
            ethernet::BRIDGED => self.ethernet(at),
            _ => None,
        }
    }

    /// IPv4 or IPv6, as its first four bits say.
    fn ip(&mut self, at: usize) -> Option<()> {
        match self.byte(at)? >> 4 {
            4 => self.v4(at),
            6 => self.v6(at),
            _ => None,
        }
    }

    fn v4(&mut self, at: usize) -> Option<()> {
        const LEN_MIN: usize = 20;
        /// More fragments, and their offset.
        const FRAGMENT: u16 = 0x3fff;
        let start = self.byte(at)?;
        let header_len = usize::from(start & 0xf) * 4;
        let protocol = self.byte(at + 9)?;
        if start >> 4 != 4
            || header_len < LEN_MIN
            || at + header_len > self.frame.len()
            || self.half(at + 6)? & FRAGMENT != 0
        {
            return None;
        }
        self.push(Layer::V4 { at, header_len })?;
        let total = usize::from(self.half(at + 2)?);
        self.layers.end = self.end(at, total);
        self.layers.next_header = 0;
        self.layers.fragment_at = 0;
        self.layers.is_routed = header_len > LEN_MIN;
        self.transport(protocol, at + header_len)
    }

    fn v6(&mut self, at: usize) -> Option<()> {
        if self.byte(at)? >> 4 != 6 || at + ip::V6_HEADER_LEN > self.frame.len() {
            return None;
        }
        self.push(Layer::V6 { at })?;
        let payload = usize::from(self.half(at + 4)?);
        self.layers.end = self.end(at + ip::V6_HEADER_LEN, payload);
        self.layers.is_routed = false;
        // The kernel's ip6_find_1stfragopt(): the fragment header goes behind hop-by-hop options and routing,
        // and behind destination options that no routing header precedes.
        let mut is_repeated = true;
        let mut next_header = at + 6;
        let mut at = at + ip::V6_HEADER_LEN;
        self.layers.next_header = next_header;
        self.layers.fragment_at = at;
        for _ in 0..=ip::EXTENSIONS_MAX {
            let protocol = self.byte(next_header)?;
            match protocol {
                ip::HOP_BY_HOP | ip::ROUTING | ip::DESTINATION_OPTIONS => {}
                ip::MOBILITY | ip::HOST_IDENTITY | ip::SHIM6 | ip::AUTHENTICATION => is_repeated = false,
                _ => return self.transport(protocol, at),
            }
            is_repeated &= protocol != ip::DESTINATION_OPTIONS || !self.layers.is_routed;
            self.layers.is_routed |= protocol == ip::ROUTING;
            let length = usize::from(self.byte(at + 1)?);
            next_header = at;
            at += match protocol {
                // RFC 4302 section 2.2 counts in words, less two.
                ip::AUTHENTICATION => (length + 2) * 4,
                // RFC 8200 section 4 counts in units of 8 octets, less the first.
                _ => (length + 1) * 8,
            };
            if is_repeated {
                self.layers.next_header = next_header;
                self.layers.fragment_at = at;
            }
        }
        None
    }

    /// The end of `length` bytes from `start` on. 0 stands for a length that has no room in its field.
    fn end(&self, start: usize, length: usize) -> usize {
        if length == 0 { self.frame.len() } else { self.frame.len().min(start + length) }
    }

    fn transport(&mut self, protocol: u8, at: usize) -> Option<()> {
        let Goal { protocol: wanted, at: place } = self.goal;
        if wanted.is_none_or(|wanted| wanted == protocol) && place.is_none_or(|place| place == at) {
            self.layers.protocol = protocol;
            self.layers.at = at;
            return Some(());
        }
        if at >= place.unwrap_or(self.frame.len()) {
            return None;
        }
        match protocol {
            ip::IPV4 => self.v4(at),
            ip::IPV6 => self.v6(at),
            ip::GRE => self.gre(at),
            ip::UDP => self.udp(at),
            _ => None,
        }
    }

    /// RFC 2784, with key and sequence number of RFC 2890.
    fn gre(&mut self, at: usize) -> Option<()> {
        const CHECKSUM: u16 = 0x8000;
        const KEY: u16 = 0x2000;
        const SEQUENCE: u16 = 0x1000;
        let flags = self.half(at)?;
        if flags & !(CHECKSUM | KEY | SEQUENCE) != 0 {
            return None;
        }
        if flags & CHECKSUM != 0 {
            self.push(Layer::Gre { at })?;
        }
        let fields = (flags & (CHECKSUM | KEY | SEQUENCE)).count_ones() as usize;
        self.network(self.half(at + 2)?, at + 4 + 4 * fields)
    }

    /// A tunnel in UDP: one of those that the kernel builds, whichever leads to the goal.
    fn udp(&mut self, at: usize) -> Option<()> {
        let checksum = self.half(at + 6)?;
        if self.layers.is_routed && checksum != 0 {
            // The pseudo-header may have an address that is not in the IP header.
            return None;
        }
        self.push(Layer::Udp { at })?;
        let before = self.layers.clone();
        for try_tunnel in [Self::vxlan, Self::geneve, Self::ip] {
            if try_tunnel(self, at + udp::HEADER_LEN).is_some() {
                return Some(());
            }
            self.layers.clone_from(&before);
        }
        None
    }

    /// VXLAN (RFC 7348), and with a bit set its generic extension (draft-ietf-nvo3-vxlan-gpe).
    fn vxlan(&mut self, at: usize) -> Option<()> {
        const HAS_VNI: u8 = 0x08;
        const HAS_PROTOCOL: u8 = 0x04;
        let flags = self.byte(at)?;
        if flags & HAS_VNI == 0 {
            return None;
        }
        let inner = at + mirror_common::vxlan::HEADER_LEN;
        if flags & HAS_PROTOCOL == 0 {
            return self.ethernet(inner);
        }
        match self.byte(at + 3)? {
            1 | 2 => self.ip(inner),
            3 => self.ethernet(inner),
            _ => None,
        }
    }

    /// GENEVE, RFC 8926.
    fn geneve(&mut self, at: usize) -> Option<()> {
        const HEADER_LEN: usize = 8;
        let start = self.byte(at)?;
        if start >> 6 != 0 {
            return None;
        }
        let options = usize::from(start & 0x3f) * 4;
        self.network(self.half(at + 2)?, at + HEADER_LEN + options)
    }
}

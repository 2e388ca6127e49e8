//! Makes the headers in front of a piece of a frame say how long the piece is, with right checksums.

use mirror_common::{checksum::Sum, ip};

use super::layers::Layer;

/// A wire frame under way: its headers, and what is known of the bytes that follow.
pub struct Wire<'a> {
    /// The headers, as they were in the super-frame.
    pub head: &'a mut [u8],
    /// Bytes that follow.
    pub body_len: usize,
    /// Their sum; of use only where [`needs_body`] or the transport header asks for it.
    pub body: Sum,
    /// How many wire frames of the same super-frame came before.
    pub number: usize,
}

/// Whether a header in `layers` has a checksum over everything that follows it.
pub fn needs_body(frame: &[u8], layers: &[Layer]) -> bool {
    layers.iter().any(|layer| match *layer {
        Layer::Udp { at } => half(frame, at + 6) != 0,
        Layer::Gre { .. } => true,
        Layer::V4 { .. } | Layer::V6 { .. } => false,
    })
}

impl Wire<'_> {
    /// Bytes from `at` to the end. At most 65,535 for every header: [`super::Cut::of`] has looked.
    pub fn len_from(&self, at: usize) -> u16 {
        (self.head.len() - at + self.body_len) as u16
    }

    /// Reads the 16-bit number at `at`.
    pub fn half(&self, at: usize) -> u16 {
        half(self.head, at)
    }

    /// Writes a 16-bit number at `at`.
    pub fn set(&mut self, at: usize, number: u16) {
        self.head[at..at + 2].copy_from_slice(&number.to_be_bytes());
    }

    /// The sum from `at` to the end.
    pub fn sum_from(&self, at: usize) -> Sum {
        // Headers have even lengths, so the body begins at an even offset of what is summed.
        Sum::new().with(&self.head[at..]).with_sum(self.body)
    }

    /// Lengths, IPv4 identifications and checksums of `layers`, once all behind them is right. The innermost
    /// identification stays as it is where `keeps_id`.
    ///
    /// As `inet_gso_segment`, `ipv6_gso_segment`, `__skb_udp_tunnel_segment` and `gre_gso_segment` do it. The
    /// outer identifications grow with each wire frame.
    pub fn fix(&mut self, layers: &[Layer], keeps_id: bool) {
        for (index, &layer) in layers.iter().enumerate().rev() {
            match layer {
                Layer::V4 { at, header_len } => {
                    self.set(at + 2, self.len_from(at));
                    let is_innermost = index + 1 == layers.len();
                    if !(keeps_id && is_innermost) {
                        self.set(at + 4, self.half(at + 4).wrapping_add(self.number as u16));
                    }
                    self.set(at + 10, 0);
                    let checksum = Sum::new().with(&self.head[at..at + header_len]).checksum();
                    self.set(at + 10, checksum);
                }
                Layer::V6 { at } => self.set(at + 4, self.len_from(at + ip::V6_HEADER_LEN)),
                Layer::Udp { at } => {
                    let length = self.len_from(at);
                    self.set(at + 4, length);
                    // RFC 768: 0 says that there is none.
                    if self.half(at + 6) != 0
                        && let Some(ip) = index.checked_sub(1)
                    {
                        self.set(at + 6, 0);
                        let sum = pseudo(self.head, layers[ip], ip::UDP).with_number(length);
                        self.set(at + 6, not_zero(sum.with_sum(self.sum_from(at)).checksum()));
                    }
                }
                Layer::Gre { at } => {
                    // The checksum, and the field behind it, which is reserved.
                    self.head[at + 4..at + 8].fill(0);
                    self.set(at + 4, self.sum_from(at).checksum());
                }
            }
        }
    }
}

/// The sum of the pseudo-header of `protocol` behind the IP header `layer`, but for the length (RFC 9293
/// section 3.1, RFC 8200 section 8.1).
pub fn pseudo(head: &[u8], layer: Layer, protocol: u8) -> Sum {
    let addresses = match layer {
        Layer::V4 { at, .. } => &head[at + 12..at + 20],
        Layer::V6 { at } => &head[at + 8..at + ip::V6_HEADER_LEN],
        Layer::Udp { .. } | Layer::Gre { .. } => &[],
    };
    Sum::new().with(addresses).with_number(u16::from(protocol))
}

/// A checksum as it is sent where 0 would say that there is none (RFC 768).
pub fn not_zero(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

/// The 16-bit number at `at`, which is within `bytes`.
pub fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

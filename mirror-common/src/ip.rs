//! IPv4 (RFC 791) and IPv6 (RFC 8200) headers, with extension headers and fragments, down to the ports.

use crate::bytes::Bytes;

/// Internet Control Message Protocol, RFC 792.
pub const ICMP: u8 = 1;
/// Transmission Control Protocol, RFC 9293.
pub const TCP: u8 = 6;
/// User Datagram Protocol, RFC 768.
pub const UDP: u8 = 17;
/// Datagram Congestion Control Protocol, RFC 4340.
pub const DCCP: u8 = 33;
/// Internet Control Message Protocol for IPv6, RFC 4443.
pub const ICMPV6: u8 = 58;
/// Stream Control Transmission Protocol, RFC 9260.
pub const SCTP: u8 = 132;
/// The Lightweight User Datagram Protocol, RFC 3828.
pub const UDP_LITE: u8 = 136;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;
const MOBILITY: u8 = 135;
const HOST_IDENTITY: u8 = 139;
const SHIM6: u8 = 140;

/// Extension headers that are looked through. RFC 8200 section 4.1 recommends an order in which at most
/// seven occur; the bound is what lets the verifier see an end.
const EXTENSIONS_MAX: u32 = 8;

/// An IPv6 address in wire order, or an IPv4 address mapped into one (RFC 4291 section 2.5.5.2).
pub type Address = [u8; 16];

/// Maps an IPv4 address into IPv6's.
#[inline(always)]
#[must_use]
pub const fn mapped([a, b, c, d]: [u8; 4]) -> Address {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

/// One fragment of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// The number that a sender gives to all fragments of one datagram; 16 bits wide in IPv4.
    pub id: u32,
    /// Whether it is the datagram's beginning, which alone carries the ports.
    pub first: bool,
}

/// What an IP packet says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Sender.
    pub source: Address,
    /// Receiver.
    pub destination: Address,
    /// The protocol behind the last extension header that was looked through.
    pub protocol: u8,
    /// Ports in host order; both 0 where the protocol has none, or this fragment does not carry them.
    pub source_port: u16,
    /// See `source_port`.
    pub destination_port: u16,
    /// Set where the packet is a part of a larger datagram.
    pub fragment: Option<Fragment>,
    /// Offset of the transport header from the frame's first byte.
    pub transport: u32,
}

impl Packet {
    /// The IPv4 packet whose header is at `offset`. `None` where there is no whole one.
    #[inline(always)]
    pub fn v4<B: Bytes + ?Sized>(frame: &B, offset: u32) -> Option<Self> {
        let header: [u8; 20] = frame.load(offset)?;
        let words = u32::from(header[0] & 0x0f);
        if header[0] >> 4 != 4 || words < 5 {
            return None;
        }
        const MORE_FRAGMENTS: u16 = 0x2000;
        const OFFSET: u16 = 0x1fff;
        let place = u16::from_be_bytes([header[6], header[7]]);
        let fragment = (place & (MORE_FRAGMENTS | OFFSET) != 0).then(|| Fragment {
            id: u32::from(u16::from_be_bytes([header[4], header[5]])),
            first: place & OFFSET == 0,
        });
        let source = mapped([header[12], header[13], header[14], header[15]]);
        let destination = mapped([header[16], header[17], header[18], header[19]]);
        Some(Self::with_ports(frame, source, destination, header[9], fragment, offset + words * 4))
    }

    /// The IPv6 packet whose header is at `offset`. `None` where there is no whole one.
    #[inline(always)]
    pub fn v6<B: Bytes + ?Sized>(frame: &B, offset: u32) -> Option<Self> {
        let start: [u8; 8] = frame.load(offset)?;
        if start[0] >> 4 != 6 {
            return None;
        }
        let source = frame.load(offset + 8)?;
        let destination = frame.load(offset + 24)?;
        let mut protocol = start[6];
        let mut fragment = None;
        let mut at = offset + 40;
        for _ in 0..EXTENSIONS_MAX {
            let length = match protocol {
                FRAGMENT => {
                    let Some(header) = frame.load(at) else { break };
                    protocol = header[0];
                    fragment = Fragment::v6(header);
                    8
                }
                HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS | MOBILITY | HOST_IDENTITY | SHIM6
                | AUTHENTICATION => {
                    let Some([next, length]) = frame.load(at) else { break };
                    let length = u32::from(length);
                    let bytes = if protocol == AUTHENTICATION {
                        // RFC 4302 section 2.2 counts in words, less two.
                        (length + 2) * 4
                    } else {
                        // RFC 8200 section 4 counts in units of 8 octets, less the first.
                        (length + 1) * 8
                    };
                    protocol = next;
                    bytes
                }
                _ => break,
            };
            at += length;
            if matches!(fragment, Some(Fragment { first: false, .. })) {
                break;
            }
        }
        Some(Self::with_ports(frame, source, destination, protocol, fragment, at))
    }

    #[inline(always)]
    fn with_ports<B: Bytes + ?Sized>(
        frame: &B,
        source: Address,
        destination: Address,
        protocol: u8,
        fragment: Option<Fragment>,
        transport: u32,
    ) -> Self {
        let carries_ports = matches!(protocol, TCP | UDP | SCTP | DCCP | UDP_LITE)
            && !matches!(fragment, Some(Fragment { first: false, .. }));
        let ports = if carries_ports { frame.load(transport) } else { None };
        let [a, b, c, d] = ports.unwrap_or_default();
        Self {
            source,
            destination,
            protocol,
            source_port: u16::from_be_bytes([a, b]),
            destination_port: u16::from_be_bytes([c, d]),
            fragment,
            transport,
        }
    }

    /// Offset of the header that this packet quotes, where it is an ICMP error: the start of what could
    /// not be delivered (RFC 792, RFC 4443 section 3), 8 bytes into the message and of the same version.
    #[inline(always)]
    pub fn quote<B: Bytes + ?Sized>(&self, frame: &B) -> Option<u32> {
        const INTO_MESSAGE: u32 = 8;
        if !matches!(self.protocol, ICMP | ICMPV6) {
            return None;
        }
        let [kind] = frame.load(self.transport)?;
        let is_error = match self.protocol {
            // Destination unreachable, source quench, redirect, time exceeded, parameter problem.
            ICMP => matches!(kind, 3 | 4 | 5 | 11 | 12),
            // Destination unreachable, packet too big, time exceeded, parameter problem.
            _ => matches!(kind, 1..=4),
        };
        is_error.then_some(self.transport + INTO_MESSAGE)
    }
}

impl Fragment {
    /// Reads an IPv6 fragment header, RFC 8200 section 4.5. `None` for an atomic fragment, which is a
    /// whole datagram (RFC 6946).
    #[inline(always)]
    const fn v6(header: [u8; 8]) -> Option<Self> {
        const OFFSET: u16 = 0xfff8;
        const MORE_FRAGMENTS: u16 = 1;
        let place = u16::from_be_bytes([header[2], header[3]]);
        if place & (OFFSET | MORE_FRAGMENTS) == 0 {
            return None;
        }
        let id = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        Some(Self { id, first: place & OFFSET == 0 })
    }
}

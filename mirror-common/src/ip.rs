//! Numbers of the Internet Protocol, versions 4 (RFC 791) and 6 (RFC 8200).

/// Internet Control Message Protocol, RFC 792.
pub const ICMP: u8 = 1;
/// IPv4 in IP, RFC 2003.
pub const IPV4: u8 = 4;
/// Transmission Control Protocol, RFC 9293.
pub const TCP: u8 = 6;
/// User Datagram Protocol, RFC 768.
pub const UDP: u8 = 17;
/// Datagram Congestion Control Protocol, RFC 4340.
pub const DCCP: u8 = 33;
/// IPv6 in IP, RFC 2473 and RFC 4213.
pub const IPV6: u8 = 41;
/// Generic Routing Encapsulation, RFC 2784.
pub const GRE: u8 = 47;
/// Internet Control Message Protocol for IPv6, RFC 4443.
pub const ICMPV6: u8 = 58;
/// Stream Control Transmission Protocol, RFC 9260.
pub const SCTP: u8 = 132;
/// The Lightweight User Datagram Protocol, RFC 3828.
pub const UDP_LITE: u8 = 136;

/// IPv6 extension header: see RFC 8200 section 4, RFC 4302, RFC 6275, RFC 7401, RFC 5533.
pub const HOP_BY_HOP: u8 = 0;
/// IPv6 extension header: see RFC 8200 section 4, RFC 4302, RFC 6275, RFC 7401, RFC 5533.
pub const ROUTING: u8 = 43;
/// IPv6 extension header: see RFC 8200 section 4, RFC 4302, RFC 6275, RFC 7401, RFC 5533.
pub const FRAGMENT: u8 = 44;
/// IPv6 extension header: see RFC 8200 section 4, RFC 4302, RFC 6275, RFC 7401, RFC 5533.
pub const AUTHENTICATION: u8 = 51;
/// IPv6 extension header: see RFC 8200 section 4, RFC 4302, RFC 6275, RFC 7401, RFC 5533.
pub const DESTINATION_OPTIONS: u8 = 60;
/// IPv6 extension header: see RFC 8200 section 4, RFC 4302, RFC 6275, RFC 7401, RFC 5533.
pub const MOBILITY: u8 = 135;
/// IPv6 extension header: see RFC 8200 section 4, RFC 4302, RFC 6275, RFC 7401, RFC 5533.
pub const HOST_IDENTITY: u8 = 139;
/// IPv6 extension header: see RFC 8200 section 4, RFC 4302, RFC 6275, RFC 7401, RFC 5533.
pub const SHIM6: u8 = 140;

/// Bytes of an IPv6 header, RFC 8200 section 3.
pub const V6_HEADER_LEN: usize = 40;
/// Bytes of an IPv6 fragment header, RFC 8200 section 4.5.
pub const FRAGMENT_LEN: usize = 8;
/// More fragments follow, in IPv4's word of flags and offset (RFC 791 section 3.1).
pub const MORE_V4: u16 = 0x2000;
/// More fragments follow, in IPv6's (RFC 8200 section 4.5).
pub const MORE_V6: u16 = 1;

/// Extension headers that are looked through: the seven that RFC 8200 section 4.1 has a place for. The
/// bound is what lets the verifier see an end.
pub const EXTENSIONS_MAX: u32 = 7;

/// An IPv6 address as four 32-bit numbers in host order, or an IPv4 address mapped into one (RFC 4291
/// section 2.5.5.2).
pub type Address = [u32; 4];

/// Maps an IPv4 address, a number in host order, into IPv6's.
#[inline(always)]
#[must_use]
pub const fn mapped(address: u32) -> Address {
    [0, 0, 0xffff, address]
}

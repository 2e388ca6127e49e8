//! Ethernet II and VLAN tags: what lies in front of the network header.

/// Bytes of an Ethernet header with no tag.
pub const HEADER_LEN: u32 = 14;

/// Bytes of a VLAN tag.
pub const TAG_LEN: u32 = 4;

/// Bytes of the two MAC addresses, after which a VLAN tag goes.
pub const ADDRESSES_LEN: u32 = 12;

/// The smallest type: a number below it is the length of an IEEE 802.3 frame.
pub const TYPE_MIN: u16 = 0x0600;

/// Internet Protocol version 4.
pub const IPV4: u16 = 0x0800;
/// Internet Protocol version 6.
pub const IPV6: u16 = 0x86dd;
/// A customer's VLAN tag, IEEE 802.1Q.
pub const VLAN: u16 = 0x8100;
/// A provider's VLAN tag, IEEE 802.1ad.
pub const SERVICE_VLAN: u16 = 0x88a8;
/// The tag that came before 802.1ad and is still in use.
pub const OLD_QINQ: u16 = 0x9100;

/// Tags that are looked through. More than a provider's and a customer's, and two to spare, is a frame
/// that no network carries on purpose; the bound is what lets the verifier see an end.
pub const TAGS_MAX: u32 = 4;
/// An Ethernet frame in a tunnel: "Trans Ether Bridging" of RFC 7637 and RFC 8926.
pub const BRIDGED: u16 = 0x6558;

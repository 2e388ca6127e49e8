//! Ethernet II and VLAN tags: what lies in front of the network header.

use crate::bytes::Bytes;

/// Bytes of an Ethernet header with no tag.
pub const HEADER_LEN: u32 = 14;

/// Bytes of a VLAN tag.
pub const TAG_LEN: u32 = 4;

/// Bytes of the two MAC addresses, after which a VLAN tag goes.
pub const ADDRESSES_LEN: u32 = 12;

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

/// Tags that are looked through. More than a provider's and a customer's, and one to spare, is a frame
/// that no network carries on purpose; the bound is what lets the verifier see an end.
const TAGS_MAX: u32 = 4;

/// Where a frame's network header is, and what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// The type behind the last VLAN tag, in host order; a length below 0x600 in 802.3 frames.
    pub ethertype: u16,
    /// Offset of the network header from the frame's first byte.
    pub offset: u32,
}

/// Looks through Ethernet and VLAN headers. `None` where the frame ends inside them.
#[inline(always)]
pub fn network<B: Bytes + ?Sized>(frame: &B) -> Option<Network> {
    let mut ethertype = u16::from_be_bytes(frame.load(ADDRESSES_LEN)?);
    let mut offset = HEADER_LEN;
    for _ in 0..TAGS_MAX {
        if !matches!(ethertype, VLAN | SERVICE_VLAN | OLD_QINQ) {
            break;
        }
        // A tag is two bytes of control information and then the type of what follows.
        ethertype = u16::from_be_bytes(frame.load(offset + 2)?);
        offset += TAG_LEN;
    }
    Some(Network { ethertype, offset })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(types: &[u16]) -> ([u8; 64], usize) {
        let mut bytes = [0; 64];
        let mut at = ADDRESSES_LEN as usize;
        for ethertype in types {
            bytes[at..at + 2].copy_from_slice(&ethertype.to_be_bytes());
            at += TAG_LEN as usize;
        }
        (bytes, at - 2)
    }

    #[test]
    fn looks_through_tags() {
        for (types, offset) in [
            (&[IPV4][..], 14),
            (&[VLAN, IPV6], 18),
            (&[SERVICE_VLAN, VLAN, IPV4], 22),
            (&[OLD_QINQ, OLD_QINQ, VLAN, IPV4], 26),
        ] {
            let (bytes, len) = frame(types);
            let ethertype = types[types.len() - 1];
            assert_eq!(network(&bytes[..]), Some(Network { ethertype, offset }));
            assert_eq!(network(&bytes[..len - 1]), None, "cut in the last type");
        }
    }

    #[test]
    fn too_many_tags_are_a_type_of_their_own() {
        let (bytes, _) = frame(&[VLAN; 6]);
        let offset = HEADER_LEN + TAGS_MAX * TAG_LEN;
        assert_eq!(network(&bytes[..]), Some(Network { ethertype: VLAN, offset }));
    }
}

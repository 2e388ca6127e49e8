//! The frame that is followed: small, of the type that IEEE 802 keeps for experiments, and found again wherever it is, also
//! inside of a datagram, by its last bytes.

use std::hash::{BuildHasher as _, RandomState};

use mirror_common::ethernet;

/// Bytes of the frame: no card has to pad it.
pub const LEN: usize = 80;

/// Bytes at its end that no other frame has.
pub const TAIL: usize = 12;

/// IEEE 802 Local Experimental EtherType 1 (IEEE 802-2014, 9.2.4): no host and no router does anything with it.
pub const ETHER_TYPE: u16 = 0x88b5;

/// What somebody reads who sees it on the wire.
const TEXT: &[u8; LEN - TAIL - ethernet::HEADER_LEN as usize] =
    b"mirror-agent doctor: a probe, to be left alone........";

/// In front of the random part of the tail.
const MARK: [u8; 4] = *b"mprb";

/// The frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeFrame([u8; LEN]);

impl ProbeFrame {
    /// One that leaves through an interface with this MAC address: from there to there, so that a switch learns nothing
    /// from it, and passes it on to nobody (IEEE 802.1Q, 8.6.1: not to the port it came from).
    #[must_use]
    pub fn outgoing(mac: [u8; 6]) -> Self {
        Self::new(mac, mac)
    }

    /// One that comes in there: from nobody, whom no bridge of this host learns (`br_handle_frame` in
    /// net/bridge/br_input.c).
    #[must_use]
    pub fn incoming(mac: [u8; 6]) -> Self {
        Self::new(mac, [0; 6])
    }

    fn new(destination: [u8; 6], source: [u8; 6]) -> Self {
        let number = RandomState::new().hash_one(std::process::id());
        let mut bytes = [0; LEN];
        let parts: [&[u8]; 6] =
            [&destination, &source, &ETHER_TYPE.to_be_bytes(), TEXT, &MARK, &number.to_be_bytes()];
        let whole = parts.iter().flat_map(|part| part.iter());
        bytes.iter_mut().zip(whole).for_each(|(place, byte)| *place = *byte);
        Self(bytes)
    }

    /// Its bytes, from the Ethernet header on.
    #[must_use]
    pub fn bytes(&self) -> &[u8; LEN] {
        &self.0
    }

    /// Its last bytes.
    #[must_use]
    pub fn tail(&self) -> [u8; TAIL] {
        let mut tail = [0; TAIL];
        tail.copy_from_slice(&self.0[LEN - TAIL..]);
        tail
    }

    /// Whether this is it, or a datagram that ends with it.
    #[must_use]
    pub fn is_end_of(&self, bytes: &[u8]) -> bool {
        bytes.ends_with(&self.0[ethernet::HEADER_LEN as usize..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_told_apart() {
        let (one, other) = (ProbeFrame::outgoing([2; 6]), ProbeFrame::outgoing([2; 6]));
        assert_ne!(one.tail(), other.tail());
        assert!(one.is_end_of(one.bytes()) && !one.is_end_of(other.bytes()));
        let datagram = [&[7; 50][..], one.bytes()].concat();
        assert!(one.is_end_of(&datagram));
        assert!(!one.is_end_of(&datagram[..datagram.len() - 1]));
    }

    #[test]
    fn a_frame_says_what_it_is() {
        let frame = ProbeFrame::incoming([4; 6]);
        assert_eq!(frame.bytes()[..14], [4, 4, 4, 4, 4, 4, 0, 0, 0, 0, 0, 0, 0x88, 0xb5]);
        assert!(frame.bytes()[14..].starts_with(b"mirror-agent doctor"));
        assert_eq!(frame.tail()[..4], MARK);
    }
}

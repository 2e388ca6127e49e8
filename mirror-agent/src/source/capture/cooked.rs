//! Linux cooked packets, LINKTYPE_LINUX_SLL and LINKTYPE_LINUX_SLL2: what a packet socket tells of a packet, in
//! place of its link header. All numbers are in network byte order.

use mirror_common::{bytes::Bytes, ethernet, record::Direction};

use super::ethernet::{MacAddress, Unplayable, split};

/// Destination of a frame to everybody.
pub(super) const BROADCAST: MacAddress = [0xff; 6];

/// Bytes of the header of version 1: packet type, hardware type, length of the address (2 each), address (8),
/// protocol (2).
const HEADER_LEN: usize = 16;

/// Bytes of the header of version 2: protocol, reserved (2 each), interface (4), hardware type (2), packet
/// type, length of the address (1 each), address (8).
const HEADER_2_LEN: usize = 20;

/// Packet type of what came for everybody: PACKET_BROADCAST of the kernel.
const TO_ALL: u16 = 1;

/// Packet type of what the host sent: PACKET_OUTGOING of the kernel.
const OUTGOING: u16 = 4;

/// Protocol of IEEE 802.3 frames without an LLC header, as Novell had them: ETH_P_802_3 of the kernel.
const RAW_802_3: u16 = 0x0001;

/// Protocol of IEEE 802.3 frames with an LLC header: ETH_P_802_2 of the kernel.
const LLC: u16 = 0x0004;

/// The longest payload that a length field can tell; IEEE 802.3 clause 3.2.6.
const LENGTH_MAX: u32 = 1500;

/// A cooked packet.
pub(super) struct Cooked<'a> {
    packet_type: u16,
    /// ARPHRD number of the kernel.
    hardware: u16,
    protocol: u16,
    /// The sender's address, where it is one of 6 bytes.
    pub(super) source: Option<MacAddress>,
    /// What follows the header.
    pub(super) payload: &'a [u8],
    pub(super) header_len: usize,
}

impl<'a> Cooked<'a> {
    /// Reads version 1.
    pub(super) fn read(data: &'a [u8]) -> Result<Self, Unplayable> {
        let (header, payload) = split(data, HEADER_LEN)?;
        // The header is long enough for all of them.
        let half = |at| header.half(at).unwrap_or(0);
        Ok(Self {
            packet_type: half(0),
            hardware: half(2),
            protocol: half(14),
            source: address(half(4), &header[6..]),
            payload,
            header_len: HEADER_LEN,
        })
    }

    /// Reads version 2.
    pub(super) fn read_2(data: &'a [u8]) -> Result<Self, Unplayable> {
        let (header, payload) = split(data, HEADER_2_LEN)?;
        // The header is long enough for all of them.
        let half = |at| header.half(at).unwrap_or(0);
        Ok(Self {
            packet_type: header[10].into(),
            hardware: half(8),
            protocol: half(0),
            source: address(header[11].into(), &header[12..]),
            payload,
            header_len: HEADER_2_LEN,
        })
    }

    /// Whether the packet was for everybody.
    pub(super) fn is_broadcast(&self) -> bool {
        self.packet_type == TO_ALL
    }

    /// Which way it went. What came for another host has come, too.
    pub(super) fn direction(&self) -> Direction {
        match self.packet_type {
            OUTGOING => Direction::Egress,
            _ => Direction::Ingress,
        }
    }

    /// What belongs into an Ethernet frame's type field; `payload_len` is the payload on the wire.
    pub(super) fn ethertype(&self, payload_len: u32) -> Result<u16, Unplayable> {
        match (self.hardware, self.protocol) {
            // Frame relay; IEEE 802.11, plain, with Prism's and with Radiotap's header; IEEE 802.15.4 and
            // its monitor; netlink. Their protocol field means something else or nothing.
            (770 | 801..=805 | 824, _) => Err(Unplayable::HardwareWithoutEthertype(self.hardware)),
            (_, RAW_802_3 | LLC) => match u16::try_from(payload_len) {
                Ok(len) if payload_len <= LENGTH_MAX => Ok(len),
                _ => Err(Unplayable::TooLongForLength(payload_len)),
            },
            (_, ethertype @ ethernet::TYPE_MIN..) => Ok(ethertype),
            (_, other) => Err(Unplayable::ProtocolWithoutEthertype(other)),
        }
    }
}

/// The address in `field`, where its length is an Ethernet address's.
fn address(len: u16, field: &[u8]) -> Option<MacAddress> {
    field.first_chunk().copied().filter(|_| usize::from(len) == size_of::<MacAddress>())
}

//! Frames that are more than one on the wire, or whose checksum is left to the card, as the kernel's own stack
//! would hand them out: a packet socket says so in front of each (packet(7), `PACKET_VNET_HDR`;
//! linux/virtio_net.h).

use std::io;

use crate::{host::Host, packet_socket::PacketSocket};

/// Nobody's addresses: no host answers.
pub const DESTINATION: [u8; 6] = [2, 0, 0, 0x5e, 0x20, 2];
pub const SOURCE: [u8; 6] = [2, 0, 0, 0x5e, 0x20, 1];

const V4: [u8; 8] = [198, 51, 100, 1, 198, 51, 100, 2];
const V6: [u8; 32] = {
    let mut addresses = [0; 32];
    (addresses[0], addresses[1], addresses[15]) = (0xfd, 0x51, 1);
    (addresses[16], addresses[17], addresses[31]) = (0xfd, 0x51, 2);
    addresses
};

pub const FIN: u8 = 1;
pub const PSH: u8 = 8;
pub const ACK: u8 = 0x10;
pub const CWR: u8 = 0x80;
/// Two NOPs and a time stamp: RFC 7323.
pub const TIME_STAMP: [u8; 12] = [1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8];

/// How a frame is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Not at all: only its checksum is missing.
    Whole,
    /// TCP or UDP, by its protocol, so many bytes of payload each.
    Segments(u16),
    /// UDP as IP fragments, so many bytes behind the IP header each.
    Fragments(u16),
}

/// A frame to be made.
#[derive(Debug, Clone)]
pub struct SuperFrame {
    /// 4 or 6.
    pub version: u8,
    /// VLAN tags, outermost first: TPID and TCI.
    pub tags: &'static [(u16, u16)],
    pub transport: Transport,
    /// Bytes.
    pub payload: usize,
    pub cut: Cut,
    /// Tells its connection from others.
    pub port: u16,
}

/// TCP with flags and options, or UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Tcp { flags: u8, options: &'static [u8] },
    Udp,
}

/// One's complement sum, RFC 1071.
fn sum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

impl SuperFrame {
    /// The frame with the pseudo-header's sum in its checksum field, as the stack leaves it to the card, behind
    /// its `struct virtio_net_hdr`.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let payload = (0..self.payload).map(|index| (index * 7 + index / 251) as u8);
        let (protocol, field, mut transport) = match self.transport {
            Transport::Tcp { flags, options } => {
                let mut header = [self.port.to_be_bytes(), [0x01, 0xbb]].concat();
                header.extend(0xffff_f000u32.to_be_bytes());
                header.extend([
                    1,
                    2,
                    3,
                    4,
                    ((5 + options.len() / 4) << 4) as u8,
                    flags,
                    0xff,
                    0xf0,
                    0,
                    0,
                    0,
                    0,
                ]);
                header.extend(options);
                (6, 16, header)
            }
            Transport::Udp => {
                let length = 8 + self.payload as u16;
                (17, 6, [self.port, 7000, length, 0].map(u16::to_be_bytes).concat())
            }
        };
        let header_len = transport.len();
        transport.extend(payload);
        let length = transport.len();
        let (ethertype, ip) = if self.version == 4 {
            let total = (20 + length as u16).to_be_bytes();
            let mut ip = vec![0x45, 2, total[0], total[1], 0xff, 0xfe, 0, 0, 63, protocol, 0, 0];
            ip.extend(V4);
            let checksum = !sum(&ip);
            ip[10..12].copy_from_slice(&checksum.to_be_bytes());
            (0x0800u16, ip)
        } else {
            let total = (length as u16).to_be_bytes();
            (0x86dd, [&[0x60, 0x21, 0x23, 0x45, total[0], total[1], protocol, 63][..], &V6].concat())
        };
        let addresses: &[u8] = if self.version == 4 { &V4 } else { &V6 };
        let seed = sum(&[addresses, &[0, protocol], &(length as u32).to_be_bytes()].concat());
        transport[field..field + 2].copy_from_slice(&seed.to_be_bytes());
        let tags: Vec<u8> = self
            .tags
            .iter()
            .flat_map(|(kind, tag)| [kind.to_be_bytes(), tag.to_be_bytes()].concat())
            .collect();
        let link = [&DESTINATION[..], &SOURCE, &tags, &ethertype.to_be_bytes()].concat();
        let start = link.len() + ip.len();
        let header = self.vnet_header(start as u16, field as u16, (start + header_len) as u16);
        [&header[..], &link, &ip, &transport].concat()
    }

    /// Flags, kind, length of the headers, size of a segment, and where the checksum is; in host order.
    fn vnet_header(&self, start: u16, field: u16, head_len: u16) -> [u8; 10] {
        let (kind, size) = match (self.cut, self.transport) {
            (Cut::Whole, _) => (0, 0),
            (Cut::Fragments(size), _) => (3, size),
            (Cut::Segments(size), Transport::Udp) => (5, size),
            (Cut::Segments(size), Transport::Tcp { flags, .. }) => {
                let kind = if self.version == 4 { 1 } else { 4 };
                (if flags & CWR == 0 { kind } else { kind | 0x80 }, size)
            }
        };
        let head_len = if kind == 0 { 0 } else { head_len };
        let mut header = [1, kind, 0, 0, 0, 0, 0, 0, 0, 0];
        for (place, half) in header[2..].as_chunks_mut::<2>().0.iter_mut().zip([head_len, size, start, field])
        {
            *place = half.to_ne_bytes();
        }
        header
    }
}

/// Sends frames out of an interface of `host`, through its egress hooks.
///
/// # Panics
/// Where the kernel takes one not.
pub fn send(host: &Host, iface: &str, frames: Vec<SuperFrame>) {
    let iface = iface.to_owned();
    host.within(move || {
        let socket = PacketSocket::sender(&iface).with_vnet_header();
        for frame in frames {
            let sent = socket.send(&[frame.bytes()]);
            assert!(sent.is_ok(), "{frame:?}: {}", io::Error::last_os_error());
        }
    });
}

//! Takes a wire frame apart, from its Ethernet header through tunnels to the payload, and checks every length
//! and every checksum on the way. Knows nothing of the code under test.

use super::naive;

/// What a wire frame carries at its innermost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Innermost {
    /// 4 or 6.
    pub version: u8,
    /// Of IPv4, or of an IPv6 fragment header.
    pub id: u32,
    /// IPv4's flags and offset, or the IPv6 fragment header's offset and flag.
    pub place: u16,
    pub protocol: u8,
    /// The transport header.
    pub header: Vec<u8>,
    pub payload: Vec<u8>,
    /// Identifications of the outer IPv4 headers, from outside to inside.
    pub outer_ids: Vec<u16>,
}

/// Tunnels in UDP are known by their ports.
pub fn take_apart(frame: &[u8]) -> Innermost {
    ethernet(frame, Vec::new())
}

fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn ethernet(frame: &[u8], ids: Vec<u16>) -> Innermost {
    let mut at = 12;
    while matches!(half(frame, at), 0x8100 | 0x88a8) {
        at += 4;
    }
    network(half(frame, at), &frame[at + 2..], ids)
}

fn network(ethertype: u16, packet: &[u8], ids: Vec<u16>) -> Innermost {
    match ethertype {
        0x0800 => v4(packet, ids),
        0x86dd => v6(packet, ids),
        0x6558 => ethernet(packet, ids),
        other => panic!("type {other:#x}"),
    }
}

fn v4(packet: &[u8], ids: Vec<u16>) -> Innermost {
    let header_len = usize::from(packet[0] & 0xf) * 4;
    assert_eq!(packet[0] >> 4, 4);
    assert_eq!(usize::from(half(packet, 2)), packet.len(), "IPv4 length");
    assert_eq!(naive(&packet[..header_len]), 0xffff, "IPv4 header checksum");
    let transport = Transport {
        version: 4,
        id: half(packet, 4).into(),
        place: half(packet, 6),
        is_fragment: half(packet, 6) & 0x3fff != 0,
        protocol: packet[9],
        addresses: &packet[12..20],
        bytes: &packet[header_len..],
    };
    transport.read(ids)
}

fn v6(packet: &[u8], ids: Vec<u16>) -> Innermost {
    assert_eq!(packet[0] >> 4, 6);
    assert_eq!(usize::from(half(packet, 4)), packet.len() - 40, "IPv6 length");
    let (mut protocol, mut at) = (packet[6], 40);
    let (mut id, mut place, mut is_fragment) = (0, 0, false);
    while matches!(protocol, 0 | 43 | 44 | 60) {
        let next = packet[at];
        if protocol == 44 {
            assert_eq!(packet[at + 1], 0, "reserved");
            place = half(packet, at + 2);
            id = u32::from(half(packet, at + 4)) << 16 | u32::from(half(packet, at + 6));
            is_fragment = true;
            at += 8;
        } else {
            at += (usize::from(packet[at + 1]) + 1) * 8;
        }
        protocol = next;
    }
    let (addresses, bytes) = (&packet[8..40], &packet[at..]);
    Transport { version: 6, id, place, is_fragment, protocol, addresses, bytes }.read(ids)
}

struct Transport<'a> {
    version: u8,
    id: u32,
    place: u16,
    is_fragment: bool,
    protocol: u8,
    addresses: &'a [u8],
    bytes: &'a [u8],
}

impl Transport<'_> {
    fn read(&self, ids: Vec<u16>) -> Innermost {
        let bytes = self.bytes;
        if self.is_fragment {
            return self.innermost(0, ids);
        }
        let tunnel = |mut ids: Vec<u16>| {
            if self.version == 4 {
                ids.push(self.id as u16);
            }
            ids
        };
        match self.protocol {
            4 => v4(bytes, tunnel(ids)),
            41 => v6(bytes, tunnel(ids)),
            6 => {
                self.check_sum("TCP");
                self.innermost(usize::from(bytes[12] >> 4) * 4, ids)
            }
            17 => {
                assert_eq!(usize::from(half(bytes, 4)), bytes.len(), "UDP length");
                if half(bytes, 6) != 0 {
                    self.check_sum("UDP");
                }
                match half(bytes, 2) {
                    4789 => ethernet(&bytes[16..], tunnel(ids)),
                    6081 => {
                        let options = 4 * usize::from(bytes[8] & 0x3f);
                        network(half(bytes, 10), &bytes[16 + options..], tunnel(ids))
                    }
                    5555 => v4(&bytes[8..], tunnel(ids)),
                    _ => self.innermost(8, ids),
                }
            }
            47 => {
                let flags = half(bytes, 0);
                if flags & 0x8000 != 0 {
                    assert_eq!(naive(bytes), 0xffff, "GRE checksum");
                    assert_eq!(half(bytes, 6), 0, "reserved");
                }
                let fields = (flags & 0xb000).count_ones() as usize;
                network(half(bytes, 2), &bytes[4 + 4 * fields..], tunnel(ids))
            }
            _ => self.innermost(0, ids),
        }
    }

    fn check_sum(&self, name: &str) {
        let length = (self.bytes.len() as u32).to_be_bytes();
        let all = [self.addresses, &[0, self.protocol], &length, self.bytes].concat();
        assert_eq!(naive(&all), 0xffff, "{name} checksum");
    }

    fn innermost(&self, header_len: usize, outer_ids: Vec<u16>) -> Innermost {
        Innermost {
            version: self.version,
            id: self.id,
            place: self.place,
            protocol: self.protocol,
            header: self.bytes[..header_len].to_vec(),
            payload: self.bytes[header_len..].to_vec(),
            outer_ids,
        }
    }
}

/// The payload of all segments, one after the other, each checked against the first.
pub fn reassemble(frames: &[Vec<u8>], size: usize) -> Vec<u8> {
    let parts: Vec<Innermost> = frames.iter().map(|frame| take_apart(frame)).collect();
    let first = &parts[0];
    for (number, part) in parts.iter().enumerate() {
        let is_last = number + 1 == parts.len();
        assert!(part.payload.len() == size || is_last && part.payload.len() <= size, "segment {number}");
        if part.version == 4 {
            assert_eq!(part.id as u16, (first.id as u16).wrapping_add(number as u16), "identification");
            assert_eq!(part.place, first.place);
        }
        let ids = first.outer_ids.iter().map(|id| id.wrapping_add(number as u16));
        assert!(part.outer_ids.iter().copied().eq(ids), "outer identifications");
        if part.protocol == 6 {
            let sequence = |part: &Innermost| u32::from_be_bytes([4, 5, 6, 7].map(|at| part.header[at]));
            assert_eq!(sequence(part), sequence(first).wrapping_add((number * size) as u32));
            assert_eq!(part.header[..4], first.header[..4], "ports");
            assert_eq!(part.header[8..13], first.header[8..13], "acknowledgement");
            assert_eq!(part.header[14..16], first.header[14..16], "window");
            assert_eq!(part.header[18..], first.header[18..], "urgent pointer and options");
        }
    }
    parts.iter().flat_map(|part| part.payload.iter().copied()).collect()
}

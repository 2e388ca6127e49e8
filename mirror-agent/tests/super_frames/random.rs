//! Super-frames of every kind, by a seed.

use mirror_common::record::Segmentation;

use super::{ACK, CWR, ECE, FIN, PSH, Stack, payload, tcp, udp};

/// Numbers that look random and are the same for the same seed (splitmix64).
pub struct Dice(pub u64);

impl Dice {
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// Less than `end`; 0 where that is 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.number() % end.max(1) as u64) as usize
    }

    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

/// A super-frame, or an ordinary frame with a checksum that is missing.
pub struct Sample {
    pub stack: Stack,
    pub kind: Segmentation,
    pub size: u16,
    pub payload: Vec<u8>,
}

const NONE: &[u8] = &[];
const TIMESTAMPS: &[u8] = &[1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8];
const SACK: &[u8] = &[1, 1, 5, 10, 1, 2, 3, 4, 5, 6, 7, 8];
const ROUTER_ALERT: &[u8] = &[0x94, 4, 0, 0];
const PADDING: &[u8] = &[1, 4, 0, 0, 0, 0];

type Extensions = &'static [(u8, &'static [u8])];
type Tags = &'static [(u16, u16)];

/// A frame with IP at most once: no tunnel.
pub fn sample(dice: &mut Dice) -> Sample {
    let kind = dice.pick(&[Segmentation::None, Segmentation::Tcp, Segmentation::Tcp, Segmentation::Udp]);
    let size = dice.pick(&[8, 100, 101, 536, 1000, 1447, 1448]);
    // As much as the kernel lets through: 128 datagrams, and 65,535 bytes of IP.
    let most = match kind {
        Segmentation::None => 1400,
        Segmentation::Udp => (127 * size).min(65_000),
        _ => (400 * size).min(65_000),
    };
    let length = match kind {
        Segmentation::None => dice.below(most),
        _ if dice.below(4) == 0 => size * (2 + dice.below(most / size - 1)),
        _ => size + 1 + dice.below(most - size),
    };
    let payload = payload(length);
    let is_tcp = kind == Segmentation::Tcp || kind == Segmentation::None && dice.below(2) == 0;
    let (protocol, transport) = if is_tcp {
        let flags = ACK | dice.pick(&[0, FIN | PSH]) | dice.pick(&[0, CWR | ECE, CWR, ECE, PSH]);
        (6, tcp(dice.number() as u32, flags, dice.pick(&[NONE, TIMESTAMPS, SACK]), &payload))
    } else {
        (17, udp(&payload))
    };
    let (ethertype, packet) = network(dice, &transport, protocol);
    let tags: [Tags; 4] = [&[], &[], &[(0x8100, 0x2064)], &[(0x88a8, 5), (0x8100, 0x0fff)]];
    let stack = packet.tagged(dice.pick(&tags), ethertype);
    Sample { stack, kind, size: if kind == Segmentation::None { 0 } else { size as u16 }, payload }
}

/// IPv4 or IPv6 around `inner`, now and then with options or extension headers.
pub fn network(dice: &mut Dice, inner: &Stack, protocol: u8) -> (u16, Stack) {
    if dice.below(2) == 0 {
        let options = dice.pick(&[NONE, NONE, ROUTER_ALERT]);
        let flags = dice.pick(&[0x4000, 0]);
        (0x0800, inner.v4(protocol, dice.number() as u16, flags, options))
    } else {
        let extensions: [Extensions; 4] = [&[], &[], &[(60, PADDING)], &[(0, PADDING), (60, PADDING)]];
        (0x86dd, inner.v6(protocol, dice.pick(&extensions)))
    }
}

/// In one tunnel, or one in another.
pub fn tunnelled(dice: &mut Dice) -> Sample {
    let size = dice.pick(&[100, 501, 1398, 1400]);
    let is_tcp = dice.below(3) != 0;
    let payload = payload(size + 1 + dice.below(30 * size));
    let (protocol, transport) = if is_tcp {
        (6, tcp(dice.number() as u32, ACK | PSH | FIN | CWR, TIMESTAMPS, &payload))
    } else {
        (17, udp(&payload))
    };
    let (mut ethertype, mut stack) = network(dice, &transport, protocol);
    for _ in 0..1 + dice.below(2) {
        // UDP with a checksum behind IPv4 options is not understood.
        let checksum = dice.pick(&[0, 0x1234]);
        let protocol_of_ip = if ethertype == 0x0800 { 4 } else { 41 };
        let tags: [Tags; 2] = [&[], &[(0x8100, 7)]];
        let bridged = stack.tagged(dice.pick(&tags), ethertype);
        let (protocol, carrier) = match dice.below(6) {
            0 => (17, bridged.vxlan(checksum)),
            1 => (17, stack.geneve(ethertype, dice.below(4), checksum)),
            2 => (17, bridged.geneve(0x6558, dice.below(4), checksum)),
            3 => (47, stack.gre(ethertype, dice.pick(&[0, 0x8000, 0x2000, 0xa000, 0xb000]))),
            4 => (47, bridged.gre(0x6558, dice.pick(&[0, 0x8000, 0x2000]))),
            _ => (protocol_of_ip, stack),
        };
        (ethertype, stack) = if dice.below(2) == 0 {
            (0x0800, carrier.v4(protocol, dice.number() as u16, dice.pick(&[0x4000, 0]), &[]))
        } else {
            (0x86dd, carrier.v6(protocol, &[]))
        };
    }
    let stack = stack.ethernet(ethertype);
    let kind = if is_tcp { Segmentation::Tcp } else { Segmentation::Udp };
    Sample { stack, kind, size: size as u16, payload }
}

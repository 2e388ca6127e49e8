//! The headers, written field by field.

use super::{Plan, checksum::Sum, mix};

/// Who sends a frame to whom, on every layer.
#[derive(Debug)]
pub struct Ends {
    source_mac: [u8; 6],
    destination_mac: [u8; 6],
    source4: [u8; 4],
    destination4: [u8; 4],
    source6: [u8; 16],
    destination6: [u8; 16],
    source_port: u16,
    destination_port: u16,
}

impl Ends {
    /// The two ends of a plan's connection, the way round that the plan says. Every connection of every
    /// kind has addresses of its own.
    pub fn of(plan: &Plan) -> Self {
        let kind = plan.kind.flow_kind().unwrap_or(plan.kind) as u8;
        let [.., high, middle, low] = plan.connection.to_be_bytes();
        let client_mac = [0x02, 0xc0, kind, high, middle, low];
        let server_mac = [0x02, 0x5e, kind, high, middle, low];
        // No test host has one of these addresses.
        let client4 = [10, 128 + kind, middle, low];
        let server4 = [10, 192 + kind, low, middle];
        let client6 = [0xfd, 0xc0, 0, kind, 0, 0, 0, 0, 0, 0, 0, 0, 0, high, middle, low];
        let server6 = [0xfd, 0x5e, 0, kind, 0, 0, 0, 0, 0, 0, 0, 0, 0, low, middle, high];
        let client_port = 20_000 + (mix(plan.connection) % 20_000) as u16;
        let server_port = 9_000 + u16::from(kind);
        let forth = Self {
            source_mac: client_mac,
            destination_mac: server_mac,
            source4: client4,
            destination4: server4,
            source6: client6,
            destination6: server6,
            source_port: client_port,
            destination_port: server_port,
        };
        if !plan.reply {
            return forth;
        }
        Self {
            source_mac: server_mac,
            destination_mac: client_mac,
            source4: server4,
            destination4: client4,
            source6: server6,
            destination6: client6,
            source_port: server_port,
            destination_port: client_port,
        }
    }

    /// What a transport checksum over IPv4 covers besides the segment, but for the length.
    pub fn pseudo4(&self, protocol: u8) -> [u8; 12] {
        let mut pseudo = [0; 12];
        pseudo[..4].copy_from_slice(&self.source4);
        pseudo[4..8].copy_from_slice(&self.destination4);
        pseudo[11] = protocol;
        pseudo
    }

    /// As [`Ends::pseudo4`], for IPv6.
    pub fn pseudo6(&self, protocol: u8) -> [u8; 36] {
        let mut pseudo = [0; 36];
        pseudo[..16].copy_from_slice(&self.source6);
        pseudo[16..32].copy_from_slice(&self.destination6);
        pseudo[35] = protocol;
        pseudo
    }
}

/// A frame that grows header by header.
pub struct Frame<'a> {
    bytes: &'a mut Vec<u8>,
}

impl<'a> Frame<'a> {
    /// Starts in an empty buffer.
    pub fn new(bytes: &'a mut Vec<u8>) -> Self {
        Self { bytes }
    }

    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    fn word(&mut self, word: u16) -> &mut Self {
        self.bytes(&word.to_be_bytes())
    }

    fn set_word(&mut self, at: usize, word: u16) {
        self.bytes[at..at + 2].copy_from_slice(&word.to_be_bytes());
    }

    /// The two MACs; tags and the ethertype follow.
    pub fn ethernet(&mut self, ends: &Ends) -> &mut Self {
        self.bytes(&ends.destination_mac).bytes(&ends.source_mac)
    }

    pub fn tag(&mut self, tpid: u16, tci: u16) -> &mut Self {
        self.word(tpid).word(tci)
    }

    pub fn ethertype(&mut self, ethertype: u16) -> &mut Self {
        self.word(ethertype)
    }

    /// A length in the ethertype's place, set by [`Frame::end_length`].
    pub fn length_field(&mut self) -> usize {
        self.word(0);
        self.bytes.len() - 2
    }

    pub fn end_length(&mut self, at: usize) {
        self.set_word(at, (self.bytes.len() - at - 2) as u16);
    }

    /// An IPv4 header; gives where it starts, for [`Frame::end_ipv4`].
    pub fn ipv4(&mut self, ends: &Ends, protocol: u8, options: &[u8]) -> usize {
        let at = self.bytes.len();
        let words = 5 + options.len() as u8 / 4;
        self.bytes(&[0x40 | words, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol, 0, 0]);
        self.bytes(&ends.source4).bytes(&ends.destination4).bytes(options);
        at
    }

    /// Makes the packet at `ip` the fragment that starts `offset` bytes into its datagram.
    pub fn set_fragment4(&mut self, ip: usize, offset: usize, more: bool) {
        self.set_word(ip + 6, u16::from(more) << 13 | (offset / 8) as u16);
    }

    pub fn set_id4(&mut self, ip: usize, id: u16) {
        self.set_word(ip + 4, id);
    }

    /// Sets the length and the checksum of an IPv4 header, now that the packet ends here.
    pub fn end_ipv4(&mut self, at: usize) -> &mut Self {
        let header = usize::from(self.bytes[at] & 0x0f) * 4;
        self.set_word(at + 2, (self.bytes.len() - at) as u16);
        let sum = Sum::default().with(&self.bytes[at..at + header]).finish();
        self.set_word(at + 10, sum);
        self
    }

    pub fn ipv6(&mut self, ends: &Ends, next: u8) -> usize {
        let at = self.bytes.len();
        self.bytes(&[0x60, 0, 0, 0, 0, 0, next, 64]).bytes(&ends.source6).bytes(&ends.destination6);
        at
    }

    pub fn end_ipv6(&mut self, at: usize) -> &mut Self {
        self.set_word(at + 4, (self.bytes.len() - at - 40) as u16);
        self
    }

    /// An IPv6 fragment header, RFC 8200 section 4.5.
    pub fn fragment6(&mut self, next: u8, offset: usize, more: bool, id: u32) -> &mut Self {
        self.bytes(&[next, 0]).word(offset as u16 | u16::from(more)).bytes(&id.to_be_bytes())
    }

    pub fn ports(&mut self, ends: &Ends) -> &mut Self {
        self.word(ends.source_port).word(ends.destination_port)
    }

    /// A TCP header without a checksum; gives where it starts.
    pub fn tcp(&mut self, plan: &Plan, ends: &Ends, options: &[u8]) -> usize {
        let at = self.bytes.len();
        let words = 5 + options.len() as u8 / 4;
        self.ports(ends).bytes(&plan.index.to_be_bytes()); // sequence and acknowledgement
        self.bytes(&[words << 4, 0x10, 0x20, 0, 0, 0, 0, 0]).bytes(options);
        at
    }

    pub fn udp(&mut self, ends: &Ends) -> usize {
        let at = self.bytes.len();
        self.ports(ends).bytes(&[0; 4]);
        at
    }

    /// A UDP header that says `len` bytes, without a checksum: its datagram is in pieces.
    pub fn udp_of(&mut self, ends: &Ends, len: usize) {
        let at = self.udp(ends);
        self.set_word(at + 4, len as u16);
    }

    pub fn end_udp(&mut self, at: usize, pseudo: &[u8]) {
        self.set_word(at + 4, (self.bytes.len() - at) as u16);
        self.checksum(at, at + 6, pseudo);
        if self.bytes[at + 6..at + 8] == [0, 0] {
            self.set_word(at + 6, 0xffff);
        }
    }

    /// An ICMP or ICMPv6 echo header; the identifier tells the connection.
    pub fn icmp(&mut self, plan: &Plan, kind: u8) -> usize {
        let at = self.bytes.len();
        self.bytes(&[kind, 0, 0, 0]).word(plan.connection as u16).word(plan.index as u16);
        at
    }

    pub fn arp(&mut self, plan: &Plan, ends: &Ends) -> &mut Self {
        self.bytes(&[0, 1, 8, 0, 6, 4, 0, if plan.reply { 2 } else { 1 }]);
        self.bytes(&ends.source_mac).bytes(&ends.source4);
        let asked = if plan.reply { ends.destination_mac } else { [0; 6] };
        self.bytes(&asked).bytes(&ends.destination4)
    }

    /// Sets the checksum at `at` over everything from `from` on. An empty `pseudo` header is left out.
    pub fn checksum(&mut self, from: usize, at: usize, pseudo: &[u8]) -> &mut Self {
        let segment = &self.bytes[from..];
        let length = if pseudo.is_empty() { 0 } else { segment.len() as u32 };
        let sum = Sum::default().with(pseudo).with(&length.to_be_bytes()).with(segment).finish();
        self.set_word(at, sum);
        self
    }

    /// Fills the frame up to the plan's size, its number last. Longer where the headers leave no room.
    pub fn fill(&mut self, plan: &Plan) -> &mut Self {
        self.fill_to(plan, plan.size)
    }

    /// As [`Frame::fill`], up to `size`.
    pub fn fill_to(&mut self, plan: &Plan, size: usize) -> &mut Self {
        let number_at = size.saturating_sub(8).max(self.bytes.len());
        let mut word = mix(plan.index ^ 0xa5a5);
        while self.bytes.len() + 8 <= number_at {
            self.bytes.extend_from_slice(&word.to_le_bytes());
            word = word.rotate_left(7).wrapping_add(0x9e37_79b9);
        }
        self.bytes.resize(number_at, 0x5a);
        self.bytes.extend_from_slice(&plan.index.to_be_bytes());
        self
    }
}

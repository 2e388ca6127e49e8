//! Which flow a frame belongs to, in words for people.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use mirror_common::{
    ethernet,
    headers::{Headers, Part},
    ip,
};

use super::answer::Flow;

/// One end of a flow: an address as [`Headers`] have it, and a port.
type End = (ip::Address, u16);

/// A flow: the same for both of its directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    kind: Kind,
    ends: [End; 2],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    /// IP, and the protocol in it.
    Ip(u8),
    /// The type of an Ethernet frame with something else.
    Ethernet(u16),
}

impl Key {
    /// The flow of a frame that begins with `bytes`, and whether it is a fragment that has no ports.
    #[must_use]
    pub fn of(bytes: &[u8]) -> (Self, bool) {
        let headers = Headers::of(bytes);
        let kind = if headers.is_ip { Kind::Ip(headers.protocol) } else { Kind::Ethernet(headers.ethertype) };
        let ends = [(headers.source, headers.source_port), (headers.destination, headers.destination_port)];
        (Self::new(kind, ends), headers.part == Part::Later)
    }

    fn new(kind: Kind, mut ends: [End; 2]) -> Self {
        ends.sort_unstable();
        Self { kind, ends }
    }

    /// Whether it is the same but for the ports.
    #[must_use]
    pub fn has_addresses_of(&self, other: &Self) -> bool {
        self.kind == other.kind
            && self.ends.map(|(address, _)| address) == other.ends.map(|(address, _)| address)
    }

    /// Its names.
    #[must_use]
    pub fn flow(&self, frames: u64, bytes: u64) -> Flow {
        let has_ports = self.ends.iter().any(|(_, port)| *port != 0);
        let [a, b] = self.ends.map(|(address, port)| match self.kind {
            Kind::Ethernet(_) => mac(address),
            Kind::Ip(_) if has_ports => SocketAddr::new(ip_address(address), port).to_string(),
            Kind::Ip(_) => ip_address(address).to_string(),
        });
        let protocol = match self.kind {
            Kind::Ip(protocol) => ip_protocol(protocol),
            Kind::Ethernet(ethertype) => ethernet_type(ethertype),
        };
        Flow { protocol, a, b, frames, bytes }
    }
}

fn ip_address(words: ip::Address) -> IpAddr {
    let mut bytes = [0; 16];
    for (bytes, word) in bytes.as_chunks_mut().0.iter_mut().zip(words) {
        *bytes = word.to_be_bytes();
    }
    Ipv6Addr::from(bytes).to_canonical()
}

/// [`Headers`] have four bytes of a MAC address in one word, and two in the next.
fn mac([_, _, first, last]: ip::Address) -> String {
    let [a, b, c, d] = first.to_be_bytes();
    let [_, _, e, f] = last.to_be_bytes();
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

/// The names of <https://www.iana.org/assignments/protocol-numbers>, as people write them.
fn ip_protocol(number: u8) -> String {
    let name = match number {
        ip::ICMP => "icmp",
        2 => "igmp",
        ip::IPV4 => "ipip",
        ip::TCP => "tcp",
        ip::UDP => "udp",
        ip::DCCP => "dccp",
        ip::IPV6 => "ipv6",
        ip::GRE => "gre",
        50 => "esp",
        ip::AUTHENTICATION => "ah",
        ip::ICMPV6 => "icmp6",
        89 => "ospf",
        103 => "pim",
        112 => "vrrp",
        ip::SCTP => "sctp",
        ip::UDP_LITE => "udplite",
        _ => return format!("ip-{number}"),
    };
    name.into()
}

fn ethernet_type(number: u16) -> String {
    let name = match number {
        0 => "short",
        1..ethernet::TYPE_MIN => "llc",
        ethernet::IPV4 => "ip?",
        ethernet::IPV6 => "ipv6?",
        0x0806 => "arp",
        0x8847 => "mpls",
        0x8863 | 0x8864 => "pppoe",
        0x888e => "eapol",
        0x88cc => "lldp",
        0x88f7 => "ptp",
        _ => return format!("{number:#06x}"),
    };
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(protocol: u8, fragment: u16, source: [u8; 4], destination: [u8; 4], ports: [u16; 2]) -> Vec<u8> {
        let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0, 40, 0, 7];
        bytes.extend(fragment.to_be_bytes());
        bytes.extend([64, protocol, 0, 0]);
        bytes.extend(source.iter().chain(&destination));
        bytes.extend(ports.iter().flat_map(|port| port.to_be_bytes()));
        bytes
    }

    fn names(bytes: &[u8]) -> [String; 3] {
        let Flow { protocol, a, b, .. } = Key::of(bytes).0.flow(1, 1);
        [protocol, a, b]
    }

    #[test]
    fn both_directions_are_one_flow() {
        let (near, far) = ([10, 0, 0, 1], [10, 0, 0, 2]);
        let there = v4(6, 0, near, far, [5000, 80]);
        let back = v4(6, 0, far, near, [80, 5000]);
        assert_eq!(Key::of(&there), Key::of(&back));
        assert_eq!(names(&back), ["tcp", "10.0.0.1:5000", "10.0.0.2:80"]);
        assert_ne!(Key::of(&there), Key::of(&v4(17, 0, near, far, [5000, 80])));
        assert_eq!(names(&v4(1, 0, far, near, [0x800, 0])), ["icmp", "10.0.0.1", "10.0.0.2"]);
        assert_eq!(names(&v4(200, 0, far, near, [1, 2]))[0], "ip-200");
    }

    #[test]
    fn later_fragments_have_no_ports() {
        let (near, far) = ([10, 0, 0, 1], [10, 0, 0, 2]);
        let (first, is_later) = Key::of(&v4(17, 0x2000, near, far, [5000, 53]));
        assert!(!is_later);
        let (later, is_later) = Key::of(&v4(17, 185, near, far, [5000, 53]));
        assert!(is_later && later != first && later.has_addresses_of(&first));
    }

    #[test]
    fn ipv6_and_what_is_not_ip() {
        let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x86, 0xdd];
        bytes.extend([0x60, 0, 0, 0, 0, 8, 17, 64]);
        bytes.extend("fd00::2".parse::<Ipv6Addr>().map(|address| address.octets()).unwrap_or_default());
        bytes.extend("fd00::1".parse::<Ipv6Addr>().map(|address| address.octets()).unwrap_or_default());
        bytes.extend([0x13, 0x88, 0, 53]);
        assert_eq!(names(&bytes), ["udp", "[fd00::1]:53", "[fd00::2]:5000"]);
        let arp = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0x1a, 0x2b, 0x3c, 0x4d, 0x5e, 8, 6, 0, 1];
        assert_eq!(names(&arp), ["arp", "02:1a:2b:3c:4d:5e", "ff:ff:ff:ff:ff:ff"]);
        assert_eq!(names(&[1, 2, 3])[0], "short");
    }
}

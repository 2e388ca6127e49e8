//! Judges a packet that was seen as it left this host: whether it is the datagram that was sent, and whether
//! others can be sent like it, past the host's stack.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use mirror_common::{ethernet, udp};

use super::tap::Metadata;
use crate::encap::outer::{ETHERNET_LEN, Outer, Version};

/// A datagram that was sent through the host's stack, from its UDP header on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Probe<'a> {
    /// Where to.
    pub(crate) sensor: SocketAddr,
    /// UDP header, tunnel header, frame.
    pub(crate) datagram: &'a [u8],
}

/// What a sighting means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sighting {
    /// Another packet.
    Other,
    /// It left like this.
    Template(Outer),
    /// It left in a way that cannot be imitated.
    Refused(Refusal),
}

/// Why a sensor is not sent to past the host's stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// `lo`, a tunnel: there is no Ethernet header.
    NoEthernet,
    /// The datagram has a VLAN tag which the interface's name does not tell of.
    Tagged,
    /// IP options, a fragment, another protocol in between.
    Headers,
    /// The host sends to another address or port than the sensor's (DNAT, a service address): it picks one
    /// for each connection.
    Redirected,
    /// To a group or to nobody.
    NotUnicast,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoEthernet => "which is no Ethernet device",
            Self::Tagged => "with a VLAN tag of no interface",
            Self::Headers => "with headers that are not imitated",
            Self::Redirected => "for another address or port than asked for (NAT)",
            Self::NotUnicast => "for a MAC address that is not one host's",
        })
    }
}

impl Probe<'_> {
    /// Judges the packet with these `bytes`.
    pub(crate) fn judge(&self, bytes: &[u8], metadata: Metadata) -> Sighting {
        let Some(start) = self.find(bytes) else { return Sighting::Other };
        match self.template(bytes, start, metadata) {
            Ok(outer) => Sighting::Template(outer),
            Err(refusal) => Sighting::Refused(refusal),
        }
    }

    /// Where in `bytes` the datagram is: at their end. Its checksum may be still to be filled in, and its
    /// destination port may be changed.
    fn find(&self, bytes: &[u8]) -> Option<usize> {
        const PORTS: usize = 4;
        const CHECKSUM: usize = 6;
        let start = bytes.len().checked_sub(self.datagram.len())?;
        let seen = &bytes[start..];
        let is_same = seen[..2] == self.datagram[..2]
            && seen[PORTS..CHECKSUM] == self.datagram[PORTS..CHECKSUM]
            && seen[udp::HEADER_LEN..] == self.datagram[udp::HEADER_LEN..];
        is_same.then_some(start)
    }

    fn template(&self, bytes: &[u8], start: usize, metadata: Metadata) -> Result<Outer, Refusal> {
        if metadata.hardware != libc::ARPHRD_ETHER {
            return Err(Refusal::NoEthernet);
        }
        let kind = bytes.get(12..14).map(|kind| u16::from_be_bytes([kind[0], kind[1]]));
        let is_tag = |kind| matches!(kind, ethernet::VLAN | ethernet::SERVICE_VLAN | ethernet::OLD_QINQ);
        if metadata.is_tagged || kind.is_some_and(is_tag) {
            return Err(Refusal::Tagged);
        }
        let outer = Outer::from_headers(bytes).ok_or(Refusal::Headers)?;
        let ip = &bytes[ETHERNET_LEN..];
        let has_plain_headers = start == ETHERNET_LEN + outer.version().header_len()
            && match outer.version() {
                Version::V4 => {
                    let [fragment, length] = [6, 2].map(|at| u16::from_be_bytes([ip[at], ip[at + 1]]));
                    // All but 'do not fragment'.
                    fragment & 0x3fff == 0 && usize::from(length) == ip.len()
                }
                Version::V6 => true,
            };
        if !has_plain_headers {
            return Err(Refusal::Headers);
        }
        if outer.destination() != self.sensor.ip() || bytes[start..start + 4] != self.datagram[..4] {
            return Err(Refusal::Redirected);
        }
        // The lowest bit of the first byte is that of groups (IEEE 802.3).
        let mac = outer.destination_mac();
        if mac[0] & 1 != 0 || mac == [0; 6] || is_group(self.sensor.ip()) {
            return Err(Refusal::NotUnicast);
        }
        Ok(outer)
    }
}

fn is_group(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_multicast() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_multicast(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use mirror_common::record::RecordHeader;

    use super::*;
    use crate::{encap::encapsulation::Encapsulation, source::Frame};

    const ETHERNET: Metadata = Metadata { ifindex: 3, hardware: libc::ARPHRD_ETHER, is_tagged: false };

    /// A datagram, and the packet in which it leaves.
    fn sent(source: &str, sensor: &str) -> (Outer, Vec<u8>, Vec<u8>) {
        let sensor: SocketAddr = sensor.parse().unwrap();
        let outer = Outer::new([2; 6], [4; 6], source.parse().unwrap(), sensor.ip()).unwrap();
        let header = RecordHeader::default();
        let headers = Encapsulation::vxlan(sensor.port(), 7).headers(&Frame::whole(&header, b"a frame"));
        let packet = outer.packets(headers, [b"a ", b"frame"], 1500, 9).unwrap().next().unwrap();
        let bytes = [packet.header(), b"a frame"].concat();
        let datagram = bytes[ETHERNET_LEN + outer.version().header_len()..].to_vec();
        (outer, bytes, datagram)
    }

    const PAIRS: [(&str, &str); 2] = [("10.0.0.1", "10.0.0.2:4789"), ("fd00::1", "[fd00::2]:4789")];

    fn judge(sensor: &str, datagram: &[u8], bytes: &[u8], metadata: Metadata) -> Sighting {
        Probe { sensor: sensor.parse().unwrap(), datagram }.judge(bytes, metadata)
    }

    #[test]
    fn plain_packet_is_a_template() {
        for (source, sensor) in PAIRS {
            let (outer, mut bytes, datagram) = sent(source, sensor);
            let expected = Sighting::Template(outer.clone());
            assert_eq!(judge(sensor, &datagram, &bytes, ETHERNET), expected);
            let checksum = ETHERNET_LEN + outer.version().header_len() + 6;
            bytes[checksum] ^= 0x55;
            assert_eq!(judge(sensor, &datagram, &bytes, ETHERNET), expected, "checksum not filled in yet");
        }
    }

    #[test]
    fn other_packets_are_not_the_probe() {
        for (source, sensor) in PAIRS {
            let (_, bytes, datagram) = sent(source, sensor);
            for cut in 0..datagram.len() {
                assert_eq!(judge(sensor, &datagram, &bytes[..cut], ETHERNET), Sighting::Other);
            }
            let mut other = bytes.clone();
            *other.last_mut().unwrap() ^= 1;
            assert_eq!(judge(sensor, &datagram, &other, ETHERNET), Sighting::Other, "another frame");
        }
    }

    #[test]
    fn what_cannot_be_imitated_is_refused() {
        for (source, sensor) in PAIRS {
            let (outer, bytes, datagram) = sent(source, sensor);
            let refused = |change: &dyn Fn(&mut Vec<u8>)| {
                let mut changed = bytes.clone();
                change(&mut changed);
                judge(sensor, &datagram, &changed, ETHERNET)
            };
            for hardware in [libc::ARPHRD_LOOPBACK, libc::ARPHRD_NONE, libc::ARPHRD_TUNNEL] {
                let metadata = Metadata { hardware, ..ETHERNET };
                for from in [0, ETHERNET_LEN] {
                    assert_eq!(
                        judge(sensor, &datagram, &bytes[from..], metadata),
                        Sighting::Refused(Refusal::NoEthernet)
                    );
                }
            }
            let tagged = Metadata { is_tagged: true, ..ETHERNET };
            assert_eq!(judge(sensor, &datagram, &bytes, tagged), Sighting::Refused(Refusal::Tagged));
            assert_eq!(
                refused(&|bytes| drop(bytes.splice(12..12, [0x81, 0, 0, 5]))),
                Sighting::Refused(Refusal::Tagged)
            );
            let udp = ETHERNET_LEN + outer.version().header_len();
            assert_eq!(refused(&|bytes| bytes[udp - 1] ^= 1), Sighting::Refused(Refusal::Redirected));
            assert_eq!(refused(&|bytes| bytes[udp + 3] ^= 1), Sighting::Refused(Refusal::Redirected));
            assert_eq!(refused(&|bytes| bytes[0] |= 1), Sighting::Refused(Refusal::NotUnicast));
            assert_eq!(refused(&|bytes| bytes[..6].fill(0)), Sighting::Refused(Refusal::NotUnicast));
            let options = refused(&|bytes| drop(bytes.splice(udp..udp, [0; 8])));
            assert_eq!(options, Sighting::Refused(Refusal::Headers), "something in front of UDP");
        }
        let (source, sensor) = PAIRS[0];
        let (_, mut bytes, datagram) = sent(source, sensor);
        bytes[20] |= 0x20;
        assert_eq!(
            judge(sensor, &datagram, &bytes, ETHERNET),
            Sighting::Refused(Refusal::Headers),
            "more fragments"
        );
        bytes[20] = 0x40;
        assert!(
            matches!(judge(sensor, &datagram, &bytes, ETHERNET), Sighting::Template(_)),
            "do not fragment"
        );
    }

    #[test]
    fn groups_are_refused() {
        let (_, bytes, datagram) = sent("10.0.0.1", "224.0.0.9:4789");
        let refused = Sighting::Refused(Refusal::NotUnicast);
        assert_eq!(judge("224.0.0.9:4789", &datagram, &bytes, ETHERNET), refused);
    }
}

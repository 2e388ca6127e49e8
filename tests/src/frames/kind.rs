//! The kinds of frames, and the headers that each is made of.

use super::{
    Plan,
    headers::{Ends, Frame},
    mix,
};

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    Tcp4 = 1,
    Udp4,
    Tcp6,
    Udp6,
    Icmp4,
    Icmp6,
    Arp,
    /// 802.1Q.
    VlanTcp4,
    VlanUdp6,
    /// 802.1ad around 802.1Q.
    QinqTcp4,
    /// 802.1Q around 802.1Q.
    DoubleVlanUdp4,
    /// VLAN 0 with a priority.
    PriorityUdp4,
    /// The three fragments of a UDP datagram.
    First4,
    Middle4,
    Last4,
    First6,
    Middle6,
    Last6,
    /// Hop-by-hop options, routing and destination options before TCP.
    ExtensionsTcp6,
    /// A fragment header that says 'the only fragment' (RFC 6946) before UDP.
    AtomicUdp6,
    Sctp4,
    /// An empty TCP segment, padded by the network card: the frame goes on behind the IP packet.
    PaddedTcp4,
    /// IPv4 and TCP options.
    OptionsTcp4,
    /// IP protocol 47, which has no ports.
    Gre4,
    /// Ethertype 0x88b5, for local experiments.
    Experimental,
    /// 802.3 with a length instead of an ethertype, and LLC.
    Llc,
    /// An IPv4 header that says it is shorter than a header can be.
    Broken4,
    /// An IPv6 extension header that goes on behind the frame's end.
    Broken6,
}

/// The order in which kinds take turns; the common ones come more often.
pub const TURNS: [Kind; 32] = [
    Kind::Tcp4,
    Kind::Udp4,
    Kind::Tcp6,
    Kind::Udp6,
    Kind::Icmp4,
    Kind::Icmp6,
    Kind::Arp,
    Kind::VlanTcp4,
    Kind::VlanUdp6,
    Kind::QinqTcp4,
    Kind::First4,
    Kind::Middle4,
    Kind::Last4,
    Kind::First6,
    Kind::Middle6,
    Kind::Last6,
    Kind::Tcp4,
    Kind::ExtensionsTcp6,
    Kind::Udp4,
    Kind::Sctp4,
    Kind::PaddedTcp4,
    Kind::OptionsTcp4,
    Kind::Experimental,
    Kind::Tcp6,
    Kind::Llc,
    Kind::Gre4,
    Kind::PriorityUdp4,
    Kind::DoubleVlanUdp4,
    Kind::AtomicUdp6,
    Kind::Broken4,
    Kind::Broken6,
    Kind::Tcp4,
];

impl Kind {
    /// Whether it is a piece of a larger datagram.
    #[must_use]
    pub fn is_fragment(self) -> bool {
        use Kind::{First4, First6, Last4, Last6, Middle4, Middle6};
        matches!(self, First4 | Middle4 | Last4 | First6 | Middle6 | Last6)
    }

    /// The kind that its flows are counted under: the fragments of a datagram belong together. `None`
    /// where no flow can be read from the headers.
    pub(super) fn flow_kind(self) -> Option<Self> {
        match self {
            Self::Broken4 | Self::Broken6 => None,
            Self::Middle4 | Self::Last4 => Some(Self::First4),
            Self::Middle6 | Self::Last6 => Some(Self::First6),
            other => Some(other),
        }
    }
}

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMP6: u8 = 58;
const SCTP: u8 = 132;
const GRE: u8 = 47;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const VLAN: u16 = 0x8100;
const SERVICE_VLAN: u16 = 0x88a8;

/// Bytes of the three fragments behind the IP headers; the datagram's length is their sum.
const FIRST_LEN: usize = 568;
const MIDDLE_LEN: usize = 1240;
const LAST_LEN: usize = 77;

/// Writes the frame that `plan` describes.
pub(super) fn write(plan: &Plan, frame: &mut Frame<'_>) {
    let ends = Ends::of(plan);
    let vlan = (plan.connection % 4000 + 1) as u16;
    match plan.kind {
        Kind::VlanTcp4 => frame.ethernet(&ends).tag(VLAN, vlan | 0x6000),
        Kind::VlanUdp6 => frame.ethernet(&ends).tag(VLAN, vlan | 0x1000),
        Kind::QinqTcp4 => frame.ethernet(&ends).tag(SERVICE_VLAN, vlan).tag(VLAN, vlan ^ 0x555),
        Kind::DoubleVlanUdp4 => frame.ethernet(&ends).tag(VLAN, vlan).tag(VLAN, vlan ^ 0x333),
        Kind::PriorityUdp4 => frame.ethernet(&ends).tag(VLAN, 0xa000),
        _ => frame.ethernet(&ends),
    };
    match plan.kind {
        Kind::Tcp4 | Kind::VlanTcp4 | Kind::QinqTcp4 => {
            let ip = frame.ethertype(IPV4).ipv4(&ends, TCP, &[]);
            let tcp = frame.tcp(plan, &ends, &[]);
            frame.fill(plan).end_ipv4(ip).checksum(tcp, tcp + 16, &ends.pseudo4(TCP));
        }
        Kind::Udp4 | Kind::DoubleVlanUdp4 | Kind::PriorityUdp4 => {
            let ip = frame.ethertype(IPV4).ipv4(&ends, UDP, &[]);
            let udp = frame.udp(&ends);
            frame.fill(plan).end_ipv4(ip).end_udp(udp, &ends.pseudo4(UDP));
        }
        Kind::Tcp6 => {
            let ip = frame.ethertype(IPV6).ipv6(&ends, TCP);
            let tcp = frame.tcp(plan, &ends, &[]);
            frame.fill(plan).end_ipv6(ip).checksum(tcp, tcp + 16, &ends.pseudo6(TCP));
        }
        Kind::Udp6 | Kind::VlanUdp6 => {
            let ip = frame.ethertype(IPV6).ipv6(&ends, UDP);
            let udp = frame.udp(&ends);
            frame.fill(plan).end_ipv6(ip).end_udp(udp, &ends.pseudo6(UDP));
        }
        Kind::Icmp4 => {
            let ip = frame.ethertype(IPV4).ipv4(&ends, ICMP, &[]);
            let icmp = frame.icmp(plan, if plan.reply { 0 } else { 8 });
            frame.fill(plan).end_ipv4(ip).checksum(icmp, icmp + 2, &[]);
        }
        Kind::Icmp6 => {
            let ip = frame.ethertype(IPV6).ipv6(&ends, ICMP6);
            let icmp = frame.icmp(plan, if plan.reply { 129 } else { 128 });
            frame.fill(plan).end_ipv6(ip).checksum(icmp, icmp + 2, &ends.pseudo6(ICMP6));
        }
        Kind::Arp => {
            frame.ethertype(0x0806).arp(plan, &ends).fill_to(plan, super::SHORTEST);
        }
        Kind::Sctp4 => {
            let ip = frame.ethertype(IPV4).ipv4(&ends, SCTP, &[]);
            frame.ports(&ends).bytes(&[0; 8]).fill(plan).end_ipv4(ip);
        }
        Kind::Gre4 => {
            let ip = frame.ethertype(IPV4).ipv4(&ends, GRE, &[]);
            frame.bytes(&[0, 0, 0x88, 0xb5]).fill(plan).end_ipv4(ip);
        }
        Kind::PaddedTcp4 => {
            let ip = frame.ethertype(IPV4).ipv4(&ends, TCP, &[]);
            let tcp = frame.tcp(plan, &ends, &[]);
            frame.end_ipv4(ip).checksum(tcp, tcp + 16, &ends.pseudo4(TCP));
            frame.fill_to(plan, super::SHORTEST);
        }
        Kind::OptionsTcp4 => {
            // Two no-operations and a router alert; a time stamp.
            let ip = frame.ethertype(IPV4).ipv4(&ends, TCP, &[1, 1, 1, 1, 148, 4, 0, 0]);
            let tcp = frame.tcp(plan, &ends, &[1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8]);
            frame.fill(plan).end_ipv4(ip).checksum(tcp, tcp + 16, &ends.pseudo4(TCP));
        }
        Kind::ExtensionsTcp6 => {
            let ip = frame.ethertype(IPV6).ipv6(&ends, HOP_BY_HOP);
            frame.bytes(&[ROUTING, 0, 1, 4, 0, 0, 0, 0]); // PadN
            frame.bytes(&[DESTINATION, 0, 253, 0, 0, 0, 0, 0]); // experimental type, no segments left
            frame.bytes(&[TCP, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            let tcp = frame.tcp(plan, &ends, &[]);
            frame.fill(plan).end_ipv6(ip).checksum(tcp, tcp + 16, &ends.pseudo6(TCP));
        }
        Kind::AtomicUdp6 => {
            let ip = frame.ethertype(IPV6).ipv6(&ends, FRAGMENT);
            frame.fragment6(UDP, 0, false, mix(plan.index) as u32);
            let udp = frame.udp(&ends);
            frame.fill(plan).end_ipv6(ip).end_udp(udp, &ends.pseudo6(UDP));
        }
        Kind::First4 | Kind::Middle4 | Kind::Last4 => fragment4(plan, &ends, frame),
        Kind::First6 | Kind::Middle6 | Kind::Last6 => fragment6(plan, &ends, frame),
        Kind::Experimental => {
            frame.ethertype(0x88b5).fill(plan);
        }
        Kind::Llc => {
            let length = frame.length_field();
            frame.bytes(&[0x42, 0x42, 0x03]).fill(plan).end_length(length);
        }
        Kind::Broken4 => {
            frame.ethertype(IPV4).bytes(&[0x42, 0, 0xff, 0xff]).fill(plan);
        }
        Kind::Broken6 => {
            let ip = frame.ethertype(IPV6).ipv6(&ends, HOP_BY_HOP);
            frame.bytes(&[HOP_BY_HOP, 255]).fill(plan).end_ipv6(ip);
        }
    }
}

/// One of the three fragments of a UDP datagram without a checksum. All three say which datagram by the
/// addresses and by the identification.
fn fragment4(plan: &Plan, ends: &Ends, frame: &mut Frame<'_>) {
    let ip = frame.ethertype(IPV4).ipv4(ends, UDP, &[]);
    frame.set_id4(ip, plan.connection as u16);
    match plan.kind {
        Kind::First4 => {
            frame.set_fragment4(ip, 0, true);
            frame.udp_of(ends, FIRST_LEN + MIDDLE_LEN + LAST_LEN);
            frame.fill_to(plan, ip + 20 + FIRST_LEN);
        }
        Kind::Middle4 => {
            frame.set_fragment4(ip, FIRST_LEN, true);
            frame.fill_to(plan, ip + 20 + MIDDLE_LEN);
        }
        _ => {
            frame.set_fragment4(ip, FIRST_LEN + MIDDLE_LEN, false);
            frame.fill_to(plan, ip + 20 + LAST_LEN);
        }
    }
    frame.end_ipv4(ip);
}

/// As [`fragment4`], over IPv6.
fn fragment6(plan: &Plan, ends: &Ends, frame: &mut Frame<'_>) {
    let ip = frame.ethertype(IPV6).ipv6(ends, FRAGMENT);
    let id = plan.connection as u32;
    let end = match plan.kind {
        Kind::First6 => {
            frame.fragment6(UDP, 0, true, id);
            frame.udp_of(ends, FIRST_LEN + MIDDLE_LEN + LAST_LEN);
            FIRST_LEN
        }
        Kind::Middle6 => {
            frame.fragment6(UDP, FIRST_LEN, true, id);
            MIDDLE_LEN
        }
        _ => {
            frame.fragment6(UDP, FIRST_LEN + MIDDLE_LEN, false, id);
            LAST_LEN
        }
    };
    frame.fill_to(plan, ip + 40 + 8 + end);
    frame.end_ipv6(ip);
}

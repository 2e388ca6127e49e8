use std::{
    collections::{HashMap, HashSet},
    process::Command,
};

use super::*;
use crate::{command, pcap, scratch::Scratch, tshark};

#[test]
fn numbers_and_sizes_are_as_promised() {
    let (mut shortest, mut longest, mut kinds) = (0, 0, HashSet::new());
    for index in (0..50_000).chain(u64::MAX - 100..=u64::MAX) {
        let frame = frame(index);
        assert_eq!(index_of(&frame), Some(index));
        assert!((SHORTEST..=LONGEST).contains(&frame.len()), "frame {index} has {} bytes", frame.len());
        shortest += usize::from(frame.len() == SHORTEST);
        longest += usize::from(frame.len() == LONGEST);
        kinds.insert(Plan::of(index).kind);
    }
    assert!(shortest > 100 && longest > 100, "{shortest} of the shortest and {longest} of the longest");
    assert_eq!(kinds, HashSet::from(TURNS));
}

#[test]
fn connections_have_both_directions() {
    let mut directions: HashMap<Flow, HashSet<bool>> = HashMap::new();
    for index in 0..1_000_000 {
        let plan = Plan::of(index);
        if let (Some(flow), false) = (plan.flow(), plan.kind.is_fragment()) {
            directions.entry(flow).or_default().insert(plan.reply);
        }
    }
    assert_eq!(directions.len() as u64, 20 * CONNECTIONS);
    assert!(directions.values().all(|both| both.len() == 2));
}

/// The fields that tell a kind, as tshark prints them.
const FIELDS: [&str; 4] = ["frame.protocols", "_ws.col.Info", "udp.length", "_ws.expert.message"];

/// The start of `frame.protocols`, and a text that has to be in one of the other fields. (The info column
/// of a UDP datagram says what tshark guesses from its random content.)
fn expected(kind: Kind) -> (&'static str, &'static str) {
    match kind {
        Kind::Tcp4 | Kind::PaddedTcp4 | Kind::OptionsTcp4 => ("eth:ethertype:ip:tcp", "[ACK]"),
        Kind::Udp4 => ("eth:ethertype:ip:udp", ""),
        Kind::Tcp6 => ("eth:ethertype:ipv6:tcp", "[ACK]"),
        Kind::Udp6 => ("eth:ethertype:ipv6:udp", ""),
        Kind::Icmp4 => ("eth:ethertype:ip:icmp", "Echo (ping)"),
        Kind::Icmp6 => ("eth:ethertype:ipv6:icmpv6", "Echo (ping)"),
        Kind::Arp => ("eth:ethertype:arp", "10.1"),
        Kind::VlanTcp4 => ("eth:ethertype:vlan:ethertype:ip:tcp", "[ACK]"),
        Kind::VlanUdp6 => ("eth:ethertype:vlan:ethertype:ipv6:udp", ""),
        Kind::QinqTcp4 => ("eth:ethertype:ieee8021ad:ethertype:vlan:ethertype:ip:tcp", "[ACK]"),
        Kind::DoubleVlanUdp4 => ("eth:ethertype:vlan:ethertype:vlan:ethertype:ip:udp", ""),
        Kind::PriorityUdp4 => ("eth:ethertype:vlan:ethertype:ip:udp", ""),
        Kind::First4 | Kind::Middle4 => ("eth:ethertype:ip:data", "Fragmented IP protocol (proto=UDP 17"),
        Kind::Last4 => ("eth:ethertype:ip:udp", "1885"),
        Kind::First6 | Kind::Middle6 => ("eth:ethertype:ipv6:ipv6.fraghdr:data", "IPv6 fragment"),
        Kind::Last6 => ("eth:ethertype:ipv6:ipv6.fraghdr:udp", "1885"),
        Kind::ExtensionsTcp6 => ("eth:ethertype:ipv6:ipv6.hopopts:ipv6.routing:ipv6.dstopts:tcp", "[ACK]"),
        Kind::AtomicUdp6 => ("eth:ethertype:ipv6:ipv6.fraghdr:udp", ""),
        Kind::Sctp4 => ("eth:ethertype:ip:sctp", ""),
        Kind::Gre4 => ("eth:ethertype:ip:gre", ""),
        Kind::Experimental => ("eth:ethertype:data", ""),
        Kind::Llc => ("eth:llc", ""),
        Kind::Broken4 => ("eth:ethertype:ip", ""),
        Kind::Broken6 => ("eth:ethertype:ipv6", ""),
    }
}

#[test]
fn tshark_reads_every_kind_as_what_it_is_with_right_checksums() {
    let scratch = Scratch::new();
    let path = scratch.path("frames.pcap");
    let mut writer = pcap::Writer::create(&path, 65_535);
    let count = 32 * 40;
    for index in 0..count {
        writer.write(1_000_000_000 + index * 1_000, &frame(index));
    }
    writer.finish();
    let checks = [
        "ip.check_checksum:TRUE",
        "tcp.check_checksum:TRUE",
        "udp.check_checksum:TRUE",
        "udp.ignore_ipv6_zero_checksum:TRUE",
        "tcp.analyze_sequence_numbers:FALSE",
    ];
    let rows = tshark::fields(&path, "", &FIELDS, &checks);
    assert_eq!(rows.len() as u64, count);
    for (index, row) in (0..).zip(&rows) {
        let kind = Plan::of(index).kind;
        let (protocols, info) = expected(kind);
        assert!(row[0].starts_with(protocols), "frame {index} ({kind:?}): {row:?}");
        assert!(row[1..].iter().any(|field| field.contains(info)), "frame {index} ({kind:?}): {row:?}");
        assert!(!row[3].contains("hecksum"), "frame {index} ({kind:?}): {row:?}");
    }
    for status in ["ip.checksum.status", "tcp.checksum.status", "udp.checksum.status"] {
        let good = tshark::fields(&path, &format!("{status} == \"Good\""), &["frame.number"], &checks).len();
        assert!(good > 100, "{good} with {status} good");
    }
}

#[test]
fn scapy_makes_the_same_checksums() {
    let scratch = Scratch::new();
    let path = scratch.path("frames.pcap");
    let mut writer = pcap::Writer::create(&path, 65_535);
    let plain = |kind: Kind| {
        matches!(
            kind,
            Kind::Tcp4 | Kind::Udp4 | Kind::Tcp6 | Kind::Udp6 | Kind::Icmp4 | Kind::Icmp6 | Kind::VlanTcp4
        )
    };
    for index in (0..1_000).filter(|index| plain(Plan::of(*index).kind)) {
        writer.write(index, &frame(index));
    }
    writer.finish();
    // Take every checksum and length out, and let scapy put its own in.
    let script = "
import sys
from scapy.all import rdpcap, Ether, IP, IPv6, TCP, UDP, ICMP, ICMPv6EchoRequest, ICMPv6EchoReply
n = 0
for packet in rdpcap(sys.argv[1]):
    sent = bytes(packet)
    for layer, names in (IP, ('chksum', 'len')), (IPv6, ('plen',)), (TCP, ('chksum',)), \\
            (UDP, ('chksum', 'len')), (ICMP, ('chksum',)), (ICMPv6EchoRequest, ('cksum',)), (ICMPv6EchoReply, ('cksum',)):
        if layer in packet:
            for name in names:
                delattr(packet[layer], name)
    assert bytes(packet) == sent, packet.show(dump=True)
    n += 1
print(n)
";
    let count = command::run(Command::new(command::python_with_scapy()).args(["-c", script]).arg(&path));
    assert_eq!(
        count.trim().parse::<u64>().unwrap(),
        (0..1_000).filter(|i| plain(Plan::of(*i).kind)).count() as u64
    );
}

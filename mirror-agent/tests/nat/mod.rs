//! NAT rules, by nftables' netlink protocol (linux/netfilter/nf_tables.h): `nft` is not on every machine.

use std::{io::Read as _, net::Ipv4Addr, time::Duration};

use socket2::{Domain, Protocol, Socket, Type};

/// Which address a rule changes.
#[derive(Clone, Copy)]
pub enum Nat {
    /// The source, as a packet leaves.
    Source,
    /// The destination of what this host sends.
    Destination,
}

/// Makes the calling thread's host send IPv4 packets with address `from` as if it were `to`.
pub fn add(nat: Nat, from: Ipv4Addr, to: Ipv4Addr) {
    const BATCH: [u16; 2] = [16, 17];
    const TABLE: u16 = 10 << 8;
    const CHAIN: u16 = 10 << 8 | 3;
    const RULE: u16 = 10 << 8 | 6;
    // Hook and priority; where the address is in an IPv4 header; NFT_NAT_SNAT or NFT_NAT_DNAT.
    let (hook, priority, offset, kind) = match nat {
        Nat::Source => (4, 100, 12, 0),
        Nat::Destination => (3, -100_i32, 16, 1),
    };
    let chain = nested(4, &[number(1, hook), number(2, priority.cast_unsigned())]);
    let rule = nested(
        4,
        &[
            expression("payload", &[number(1, 1), number(2, 1), number(3, offset), number(4, 4)]),
            expression("cmp", &[number(1, 1), number(2, 0), nested(3, &[bytes(1, &from.octets())])]),
            expression("immediate", &[number(1, 1), nested(2, &[bytes(1, &to.octets())])]),
            expression("nat", &[number(1, kind), number(2, libc::AF_INET as u32), number(3, 1)]),
        ],
    );
    let messages = [
        message(BATCH[0], 0, &[]),
        message(TABLE, 1, &[text(1, "t")]),
        message(CHAIN, 2, &[text(1, "t"), text(3, "c"), chain, text(7, "nat")]),
        message(RULE, 3, &[text(1, "t"), text(2, "c"), rule]),
        message(BATCH[1], 4, &[]),
    ];
    let mut socket =
        Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(Protocol::from(libc::NETLINK_NETFILTER)))
            .unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    socket.send(&messages.concat()).unwrap();
    // One answer for each of the three, in a datagram of its own.
    for _ in 0..3 {
        let mut answer = [0; 1024];
        let length = socket.read(&mut answer).unwrap();
        let error = i32::from_ne_bytes(answer[..length][16..20].try_into().unwrap());
        assert_eq!(error, 0, "nftables refuses a rule");
    }
}

fn message(kind: u16, sequence: u32, attributes: &[Vec<u8>]) -> Vec<u8> {
    let flags = match kind {
        16 | 17 => libc::NLM_F_REQUEST,
        _ => libc::NLM_F_REQUEST | libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_APPEND,
    };
    // A batch is for nftables, NFNL_SUBSYS_NFTABLES; what is in it is for IPv4.
    let (family, resource) = if matches!(kind, 16 | 17) { (0, 10_u16) } else { (libc::AF_INET as u8, 0) };
    let body = attributes.concat();
    let mut message = Vec::new();
    message.extend((20 + body.len() as u32).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend((flags as u16).to_ne_bytes());
    message.extend(sequence.to_ne_bytes());
    message.extend(0_u32.to_ne_bytes());
    message.extend([family, 0]);
    message.extend(resource.to_be_bytes());
    message.extend(body);
    message
}

fn bytes(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut attribute = Vec::new();
    attribute.extend((4 + value.len() as u16).to_ne_bytes());
    attribute.extend(kind.to_ne_bytes());
    attribute.extend(value);
    attribute.resize(attribute.len().next_multiple_of(4), 0);
    attribute
}

fn number(kind: u16, value: u32) -> Vec<u8> {
    bytes(kind, &value.to_be_bytes())
}

fn text(kind: u16, value: &str) -> Vec<u8> {
    bytes(kind, &[value.as_bytes(), &[0]].concat())
}

fn nested(kind: u16, attributes: &[Vec<u8>]) -> Vec<u8> {
    const NLA_F_NESTED: u16 = 0x8000;
    bytes(kind | NLA_F_NESTED, &attributes.concat())
}

fn expression(name: &str, attributes: &[Vec<u8>]) -> Vec<u8> {
    nested(1, &[text(1, name), nested(2, attributes)])
}

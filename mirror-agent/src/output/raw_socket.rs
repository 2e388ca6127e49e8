//! A raw socket of protocol UDP (raw(7)), which sends from any source port: the agent writes the UDP header, the kernel
//! does everything below. Against one bound UDP socket per source port it takes no port away from the host's programs, of
//! which the dynamic range is also theirs, and one socket keeps the order of all that is sent.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use socket2::{Domain, Protocol, Socket, Type};

use super::sockopt::set;

/// Opens one for datagrams to `sensor`.
pub(super) fn open(sensor: SocketAddr) -> Result<Socket> {
    let domain = Domain::for_address(sensor);
    let socket = Socket::new(domain, Type::RAW, Some(Protocol::UDP)).context("cannot open a raw socket")?;
    if sensor.is_ipv6() {
        // UDP over IPv6 has a checksum (RFC 8200 section 8.1): the kernel puts it at this offset.
        const CHECKSUM_OFFSET: i32 = 6;
        set(&socket, libc::IPPROTO_IPV6, libc::IPV6_CHECKSUM, &CHECKSUM_OFFSET)?;
    }
    Ok(socket)
}

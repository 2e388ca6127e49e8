//! UDP sockets, one for each source port, for an agent that may not open a raw socket (`CAP_NET_RAW`).
//!
//! A socket costs a descriptor, and its port is taken from the host's programs: so there are far fewer ports than the
//! 16,384 of a raw socket. Which one a flow has, the same hash says.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use anyhow::{Context as _, Result};
use mirror_common::flow::{SOURCE_PORT_FIRST, SOURCE_PORTS};
use socket2::{Domain, SockAddr, Socket, Type};

use super::sockopt::set;

/// Sockets of one sending thread to one sensor: enough for receivers that spread load by the outer header.
pub const SOCKETS_MAX: u32 = 64;

/// Ports from here on are looked at first: Linux does not give them to programs that do not care which one they get
/// (`net.ipv4.ip_local_port_range`, 32768 to 60999).
const PREFERRED: u32 = 61_440 - SOURCE_PORT_FIRST as u32;

/// How many sockets each of `ways`, one thread's to one sensor, may have, where the process may have `descriptors`: a
/// power of two, 1 to [`SOCKETS_MAX`].
#[must_use]
pub fn share(descriptors: u64, ways: u64) -> u32 {
    // Half of them are for interfaces, files and all others.
    let share = (descriptors / 2 / ways.max(1)).clamp(1, u64::from(SOCKETS_MAX)) as u32;
    1 << share.ilog2()
}

/// The number of the socket, of `count`, that sends the datagrams of a flow: both directions have the same.
#[inline]
pub(super) fn lane(flow_hash: u32, rings: u32, count: usize) -> usize {
    // The remainder by `rings` is the same for all flows of a thread.
    let own = (flow_hash & (SOURCE_PORTS - 1)) / rings.max(1);
    (own as usize).checked_rem(count).unwrap_or(0)
}

/// Opens `count` of them, bound to ports of their own, for the thread that serves `ring` of `rings`.
pub(super) fn open(sensor: SocketAddr, count: u32, ring: u32, rings: u32) -> Result<Vec<Socket>> {
    (0..count)
        .map(|lane| bind(sensor, lane, count, ring, rings.max(1)))
        .collect::<io::Result<_>>()
        .with_context(|| format!("cannot open {count} UDP sockets"))
}

fn bind(sensor: SocketAddr, lane: u32, count: u32, ring: u32, rings: u32) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(sensor), Type::DGRAM, None)?;
    // Sockets to several sensors share their ports. Another program's are taken only if it wants that, too.
    socket.set_reuse_port(true)?;
    if sensor.is_ipv4() {
        // As a raw socket's: the frame has its own.
        set(&socket, libc::SOL_SOCKET, libc::SO_NO_CHECK, &1_i32)?;
    }
    let any: IpAddr = match sensor {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => {
            socket.set_only_v6(true)?;
            Ipv6Addr::UNSPECIFIED.into()
        }
    };
    let mut result = Err(io::ErrorKind::AddrInUse.into());
    for port in candidates(lane, count, ring, rings) {
        result = socket.bind(&SockAddr::from(SocketAddr::new(any, port)));
        match &result {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            _ => break,
        }
    }
    result.map(|()| socket)
}

/// The ports that a socket may have: those of one ring, since each is sent from by one thread only.
fn candidates(lane: u32, count: u32, ring: u32, rings: u32) -> impl Iterator<Item = u16> {
    let ports = SOURCE_PORTS / rings;
    let port = move |turn: u32| {
        let own = (PREFERRED / rings + lane + turn * count) % ports;
        // Below SOURCE_PORTS, as `ring` is below `rings`.
        SOURCE_PORT_FIRST + (own * rings + ring) as u16
    };
    (0..ports / count.max(1)).map(port)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use mirror_common::flow;

    use super::*;

    #[test]
    fn sockets_of_all_threads_have_different_ports_in_the_dynamic_range() {
        for rings in [1, 2, 3, 4, 7] {
            let mut ports = BTreeSet::new();
            for ring in 0..rings {
                for lane in 0..SOCKETS_MAX {
                    let mut own = candidates(lane, SOCKETS_MAX, ring, rings);
                    let port = own.next().unwrap_or(0);
                    assert!(port >= 61_440 - rings as u16, "{port}");
                    assert!(ports.insert(port), "{port} twice");
                    for port in own {
                        assert!(port >= SOURCE_PORT_FIRST);
                        assert_eq!(flow::ring(u32::from(port - SOURCE_PORT_FIRST), rings), ring);
                    }
                }
            }
        }
    }

    #[test]
    fn all_sockets_are_used_whatever_the_number_of_threads() {
        for rings in [1, 2, 3, 4] {
            for ring in 0..rings {
                let flows = (0..SOURCE_PORTS).filter(|&flow| flow::ring(flow, rings) == ring);
                let lanes: BTreeSet<_> = flows.map(|flow| lane(flow, rings, 64)).collect();
                assert_eq!(lanes.len(), 64, "ring {ring} of {rings}");
            }
        }
    }

    #[test]
    fn descriptors_are_bounded() {
        assert_eq!(share(1 << 20, 4), 64);
        assert_eq!(share(1024, 4), 64);
        assert_eq!(share(1024, 4 * 64), 2);
        assert_eq!(share(256, 4 * 64), 1);
    }
}

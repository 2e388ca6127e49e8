//! VXLAN, RFC 7348 section 5, written apart from the agent's.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use socket2::{Domain, Socket, Type};

use crate::host::Host;

/// Bytes of the header.
pub const HEADER_LEN: usize = 8;

/// The VNI and the frame in a UDP payload; `None` where the I flag is not set or the header is cut.
#[must_use]
pub fn open(payload: &[u8]) -> Option<(u32, &[u8])> {
    let (header, frame) = payload.split_first_chunk::<HEADER_LEN>()?;
    let vni = u32::from_be_bytes(header[4..8].try_into().unwrap()) >> 8;
    (header[0] & 0x08 != 0).then_some((vni, frame))
}

/// `frame` behind a header that says `vni`.
#[must_use]
pub fn wrap(vni: u32, frame: &[u8]) -> Vec<u8> {
    [&[8, 0, 0, 0][..], &(vni << 8).to_be_bytes(), frame].concat()
}

/// Sends payloads from a host as UDP datagrams, each from the source port it says.
///
/// # Panics
/// Where a socket fails.
pub fn send(host: &Host, destination: &str, payloads: Vec<(u16, Vec<u8>)>) {
    let destination = destination.to_owned();
    host.within(move || {
        let mut sockets = std::collections::HashMap::new();
        for (port, payload) in payloads {
            let socket = sockets.entry(port).or_insert_with(|| bind(port).expect("cannot bind"));
            socket.send_to(&payload, &*destination).expect("cannot send");
        }
    });
}

/// A command that another test starts has a copy of every socket until it executes its program, and so may still
/// have the port of one that was just closed here: the port is shared with it.
fn bind(port: u16) -> std::io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into())?;
    Ok(socket.into())
}

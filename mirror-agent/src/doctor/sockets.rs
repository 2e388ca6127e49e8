//! The UDP sockets of this network namespace, with what waits in them and what they lost: sock_diag(7), as `ss -uanmp` has
//! it.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result};

use super::processes::{self, Process};
use crate::output::sockopt;

/// A UDP socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UdpSocket {
    /// Where it listens.
    pub local: SocketAddr,
    /// Its inode; 0 of one of the kernel's own, as a VXLAN device has.
    pub inode: u32,
    /// Bytes of memory that what waits to be read takes, the kernel's own part included.
    pub waiting: u64,
    /// Bytes that may, `SO_RCVBUF` as the kernel counts it: twice of what was asked for. 0 where the kernel does not say.
    pub buffer: u64,
    /// Datagrams that it lost since it was opened: its buffer was full, or a checksum was wrong.
    pub drops: u64,
    /// Who has it open, as far as this process may see.
    pub holders: Vec<Process>,
}

impl UdpSocket {
    /// Whether less than a tenth of its buffer is free.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.buffer > 0 && self.waiting * 10 > self.buffer * 9
    }

    /// Who has it open, for people.
    #[must_use]
    pub fn holder(&self) -> String {
        match &self.holders[..] {
            [] if self.inode == 0 => "the kernel (a VXLAN or GENEVE device)".into(),
            [] => "a process that cannot be seen from here".into(),
            all => all.iter().map(Process::to_string).collect::<Vec<_>>().join(", "),
        }
    }
}

/// All UDP sockets that are bound to `port`, to which `address` leads where that is given.
///
/// # Errors
///
/// The kernel cannot be asked: it has no sock_diag for UDP (CONFIG_INET_UDP_DIAG).
pub fn at_port(port: u16, address: Option<IpAddr>) -> Result<Vec<UdpSocket>> {
    all(|socket| socket.port() == port && address.is_none_or(|address| takes(socket.ip(), address)))
}

/// All UDP sockets that lost something.
///
/// # Errors
///
/// As for [`at_port`].
pub fn with_drops() -> Result<Vec<UdpSocket>> {
    Ok(all(|_| true)?.into_iter().filter(|socket| socket.drops > 0).collect())
}

/// Whether a socket that is bound to `local` gets what is sent to `address`.
fn takes(local: IpAddr, address: IpAddr) -> bool {
    let v4 = |ip: IpAddr| ip.to_canonical();
    match local {
        // Most often it takes IPv4 too (net.ipv6.bindv6only).
        IpAddr::V6(local) if local.is_unspecified() => true,
        IpAddr::V4(local) if local.is_unspecified() => v4(address).is_ipv4(),
        local => v4(local) == v4(address),
    }
}

fn all(is_wanted: impl Fn(SocketAddr) -> bool) -> Result<Vec<UdpSocket>> {
    let mut all = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        match dump(family as u8) {
            Ok(found) => all.extend(found.into_iter().filter(|socket| is_wanted(socket.local))),
            // A host without IPv6.
            Err(error) if family == libc::AF_INET6 && error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(error) => return Err(error).context("cannot ask the kernel for the UDP sockets (sock_diag)"),
        }
    }
    let inodes: BTreeSet<u32> = all.iter().map(|socket| socket.inode).filter(|inode| *inode != 0).collect();
    let mut holders = processes::holders(&inodes);
    for socket in &mut all {
        socket.holders = holders.remove(&socket.inode).unwrap_or_default();
    }
    Ok(all)
}

/// Bytes of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Bytes of `struct inet_diag_sockid` of linux/inet_diag.h.
const SOCKET_ID: usize = 48;
/// `INET_DIAG_SKMEMINFO`, an array of 32-bit numbers.
const MEMORY: u16 = 7;

/// Asks for the sockets of a family.
fn dump(family: u8) -> io::Result<Vec<UdpSocket>> {
    /// `SOCK_DIAG_BY_FAMILY` of linux/sock_diag.h.
    const BY_FAMILY: u16 = 20;
    let socket = sockopt::open(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_SOCK_DIAG)?;
    // `struct nlmsghdr` and `struct inet_diag_req_v2`, all sockets in any state.
    let mut request = Vec::with_capacity(HEADER + 8 + SOCKET_ID);
    request.extend(((HEADER + 8 + SOCKET_ID) as u32).to_ne_bytes());
    request.extend(BY_FAMILY.to_ne_bytes());
    request.extend(((libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16).to_ne_bytes());
    request.extend([0; 8]);
    request.extend([family, libc::IPPROTO_UDP as u8, 1 << (MEMORY - 1), 0]);
    request.extend(u32::MAX.to_ne_bytes());
    request.extend([0; SOCKET_ID]);
    // SAFETY: the request is readable for its length. A netlink socket that is not connected sends to the kernel.
    let sent = unsafe { libc::send(socket.as_raw_fd(), request.as_ptr().cast(), request.len(), 0) };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut all = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let received = receive(&socket, &mut buffer)?;
        if !read_messages(&buffer[..received], &mut all)? {
            return Ok(all);
        }
    }
}

fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the buffer is writable for its length.
    let received = unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
    usize::try_from(received).map_err(|_| io::Error::last_os_error())
}

/// Returns whether more are to come.
fn read_messages(mut bytes: &[u8], all: &mut Vec<UdpSocket>) -> io::Result<bool> {
    while let Some(length) = word(bytes, 0) {
        let length = length as usize;
        let Some(message) = bytes.get(HEADER..length) else { break };
        match half(bytes, 4).map(libc::c_int::from) {
            Some(libc::NLMSG_DONE) => return Ok(false),
            Some(libc::NLMSG_ERROR) => {
                let error = word(message, 0).unwrap_or(0).cast_signed();
                return Err(io::Error::from_raw_os_error(-error));
            }
            _ => all.extend(read_socket(message)),
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(true)
}

/// `struct inet_diag_msg`, and what follows it.
fn read_socket(message: &[u8]) -> Option<UdpSocket> {
    const FIXED: usize = 4 + SOCKET_ID + 20;
    let family = libc::c_int::from(*message.first()?);
    let port = u16::from_be_bytes([*message.get(4)?, *message.get(5)?]);
    let ip = match family {
        libc::AF_INET => {
            let bytes: [u8; 4] = message.get(8..12)?.try_into().ok()?;
            IpAddr::V4(Ipv4Addr::from(bytes))
        }
        _ => {
            let bytes: [u8; 16] = message.get(8..24)?.try_into().ok()?;
            IpAddr::V6(Ipv6Addr::from(bytes))
        }
    };
    let mut socket = UdpSocket {
        local: SocketAddr::new(ip, port),
        waiting: u64::from(word(message, 4 + SOCKET_ID + 4)?),
        inode: word(message, 4 + SOCKET_ID + 16)?,
        buffer: 0,
        drops: 0,
        holders: Vec::new(),
    };
    let mut rest = message.get(FIXED..)?;
    while let (Some(length), Some(kind)) = (half(rest, 0), half(rest, 2)) {
        let Some(value) = rest.get(4..usize::from(length)) else { break };
        if kind == MEMORY {
            // `SK_MEMINFO_*` of linux/sock_diag.h.
            let number = |index: i32| word(value, index as usize * 4).map_or(0, u64::from);
            socket.waiting = number(libc::SK_MEMINFO_RMEM_ALLOC);
            socket.buffer = number(libc::SK_MEMINFO_RCVBUF);
            socket.drops = number(libc::SK_MEMINFO_DROPS);
        }
        rest = rest.get(usize::from(length).next_multiple_of(4)..).unwrap_or_default();
    }
    Some(socket)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::net::UdpSocket as Std;

    use super::*;

    #[test]
    fn a_socket_is_found_with_what_waits_and_who_holds_it() {
        let listens = Std::bind("127.0.0.1:0").unwrap();
        let address = listens.local_addr().unwrap();
        let find = || at_port(address.port(), Some(address.ip())).unwrap();
        let [before] = &find()[..] else { panic!("{:?}", find()) };
        assert_eq!((before.local, before.waiting, before.is_full()), (address, 0, false));
        assert!(before.buffer > 0);
        assert!(before.holders.iter().any(|holder| holder.pid == std::process::id()), "{before:?}");
        let sends = Std::bind("127.0.0.1:0").unwrap();
        // Until it is full.
        for _ in 0..4096 {
            sends.send_to(&[0; 1000], address).unwrap();
        }
        let [after] = &find()[..] else { panic!() };
        assert!(after.is_full() && after.drops > 0, "{after:?}");
        assert!(with_drops().unwrap().iter().any(|socket| socket.inode == after.inode));
    }

    #[test]
    fn addresses_that_a_socket_takes() {
        for (local, address, expected) in [
            ("0.0.0.0", "10.0.0.1", true),
            ("0.0.0.0", "fd00::1", false),
            ("::", "10.0.0.1", true),
            ("::", "fd00::1", true),
            ("10.0.0.1", "10.0.0.1", true),
            ("::ffff:10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "10.0.0.2", false),
        ] {
            let [local, address]: [IpAddr; 2] = [local, address].map(|text| text.parse().unwrap());
            assert_eq!(takes(local, address), expected, "{local} {address}");
        }
    }

    #[test]
    fn answers_that_are_cut_are_not_read_past_their_end() {
        let mut whole = vec![0; 4 + SOCKET_ID + 20];
        whole[0] = libc::AF_INET as u8;
        whole.extend([8, 0, 7, 0, 1, 0, 0, 0]);
        for length in 0..whole.len() {
            let _ = read_socket(&whole[..length]);
        }
        assert_eq!(read_socket(&whole).unwrap().waiting, 1);
    }
}

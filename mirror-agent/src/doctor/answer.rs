//! What comes back when a datagram is sent to a sensor: nothing, as it should be, or why it was not taken.

use std::{
    io, mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsRawFd as _,
    ptr,
    time::{Duration, Instant},
};

use mirror_common::own;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, SockAddr, Socket, Type};
use std::os::fd::AsFd as _;

use crate::output::sockopt;

/// Somebody's refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What the kernel makes of it: ECONNREFUSED, EHOSTUNREACH and others.
    pub errno: i32,
    /// Who said so; `None` is this host.
    pub from: Option<IpAddr>,
    /// ICMP type and code, where the network answered.
    pub icmp: Option<(u8, u8)>,
}

/// Sends a datagram with this payload through the host's stack, marked as the agent's own, so that no agent mirrors it, and
/// waits for an answer. `Ok(None)`: nobody refused it.
///
/// # Errors
///
/// This host does not send it.
pub fn ask(sensor: SocketAddr, payload: &[u8], time: Duration) -> io::Result<Option<Refusal>> {
    let domain = Domain::for_address(sensor);
    let socket = Socket::new(domain, Type::DGRAM.nonblocking(), None)?;
    // Without the right to, no running agent's hook matters: it would not have it either.
    let _ = socket.set_mark(own::MARK);
    match domain {
        Domain::IPV4 => sockopt::set(&socket, libc::IPPROTO_IP, libc::IP_RECVERR, &1_i32)?,
        _ => sockopt::set(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVERR, &1_i32)?,
    }
    socket.connect(&SockAddr::from(sensor))?;
    socket.send(payload)?;
    let deadline = Instant::now() + time;
    loop {
        if let Some(refusal) = next(&socket)? {
            return Ok(Some(refusal));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        // Errors wake without being asked for.
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        let _ = poll(&mut [PollFd::new(socket.as_fd(), PollFlags::empty())], timeout);
    }
}

fn next(socket: &Socket) -> io::Result<Option<Refusal>> {
    let mut control = [0_u64; 64];
    // SAFETY: all-zero is a valid msghdr: null pointers and zero lengths.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = mem::size_of_val(&control) as _;
    // SAFETY: the pointers in `message` are to locals that outlive the call, with their lengths.
    let received = unsafe {
        libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT)
    };
    if received < 0 {
        let error = io::Error::last_os_error();
        return if error.kind() == io::ErrorKind::WouldBlock { Ok(None) } else { Err(error) };
    }
    // SAFETY: the kernel filled the control buffer of `message`; the macros stay within its length.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    while !header.is_null() {
        // SAFETY: not null, so a whole header in the control buffer, which is aligned to 8.
        let (level, kind) = unsafe { ((*header).cmsg_level, (*header).cmsg_type) };
        if matches!(
            (level, kind),
            (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)
        ) {
            // SAFETY: a control message of this type holds a sock_extended_err (ip(7)), and behind it a sockaddr of the
            // level's family, or of none.
            unsafe {
                let error: *const libc::sock_extended_err = libc::CMSG_DATA(header).cast();
                return Ok(Some(read(ptr::read_unaligned(error), error.add(1).cast())));
            }
        }
        // SAFETY: as for the first header.
        header = unsafe { libc::CMSG_NXTHDR(&raw const message, header) };
    }
    Ok(None)
}

/// # Safety
///
/// `offender` is readable as a sockaddr of the family that it begins with.
unsafe fn read(error: libc::sock_extended_err, offender: *const libc::sockaddr_in6) -> Refusal {
    let is_icmp = matches!(error.ee_origin, libc::SO_EE_ORIGIN_ICMP | libc::SO_EE_ORIGIN_ICMP6);
    let from = is_icmp.then(|| {
        // SAFETY: the caller vouches for it.
        match unsafe { libc::c_int::from(ptr::read_unaligned(offender.cast::<libc::sa_family_t>())) } {
            libc::AF_INET => {
                // SAFETY: as above.
                let address: libc::sockaddr_in = unsafe { ptr::read_unaligned(offender.cast()) };
                Some(IpAddr::V4(Ipv4Addr::from_bits(u32::from_be(address.sin_addr.s_addr))))
            }
            libc::AF_INET6 => {
                // SAFETY: as above.
                let address: libc::sockaddr_in6 = unsafe { ptr::read_unaligned(offender) };
                Some(IpAddr::V6(Ipv6Addr::from(address.sin6_addr.s6_addr)))
            }
            _ => None,
        }
    });
    Refusal {
        errno: error.ee_errno.cast_signed(),
        from: from.flatten(),
        icmp: is_icmp.then_some((error.ee_type, error.ee_code)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn a_port_that_nobody_has_refuses_and_one_that_somebody_has_does_not() {
        for local in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(socket) = UdpSocket::bind(local) else { continue };
            let address = socket.local_addr().unwrap();
            assert_eq!(ask(address, b"probe", Duration::from_millis(50)).unwrap(), None);
            drop(socket);
            let refusal = ask(address, b"probe", Duration::from_secs(2)).unwrap().unwrap();
            assert_eq!((refusal.errno, refusal.from), (libc::ECONNREFUSED, Some(address.ip())));
            assert!(refusal.icmp.is_some());
        }
    }
}

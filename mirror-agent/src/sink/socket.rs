//! The socket that a sink listens on.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    os::fd::{AsRawFd as _, BorrowedFd},
};

use anyhow::{Context as _, Result, anyhow};
use socket2::{Domain, Protocol, Socket, Type};

/// Opens a UDP socket on `address`, with a receive buffer of `rcvbuf` bytes where the system allows it,
/// and time stamps on arrival.
///
/// # Errors
/// Where `address` is taken, not of this host or not permitted; the message says what to do.
pub fn open(address: SocketAddr, rcvbuf: u32) -> Result<UdpSocket> {
    let socket = bind(address)
        .map_err(|error| anyhow!(advice(&error)))
        .with_context(|| format!("cannot listen on {address}"))?;
    set_receive_buffer(&socket, rcvbuf).context("cannot set the size of the receive buffer")?;
    set_option(&socket, libc::SO_TIMESTAMPNS, 1).context("cannot switch on the time stamps of the socket")?;
    Ok(socket.into())
}

fn bind(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        // Users of [::] expect IPv4 too, whatever net.ipv6.bindv6only says.
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

/// What went wrong and what to do.
fn advice(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EADDRINUSE) => {
            "address already in use: stop the program or VXLAN device that has the port \
             (ss -aunp shows it), or choose another address or port with --listen"
                .into()
        }
        Some(libc::EADDRNOTAVAIL) => "no interface of this host has the address: choose one that \
             `ip address` shows, or 0.0.0.0 or [::] for all"
            .into(),
        Some(libc::EACCES) => "permission denied: a port below 1024 needs CAP_NET_BIND_SERVICE; \
             run as root or choose a higher port with --listen"
            .into(),
        Some(libc::EAFNOSUPPORT) => {
            "this host has no such address family: choose another address with --listen".into()
        }
        _ => error.to_string(),
    }
}

/// Sets the receive buffer past net.core.rmem_max where that is permitted, else as near as it gets.
fn set_receive_buffer(socket: &Socket, bytes: u32) -> io::Result<()> {
    let value = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    match set_option(socket, libc::SO_RCVBUFFORCE, value) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            set_option(socket, libc::SO_RCVBUF, value)?;
            // socket(7): the kernel doubles what was asked for, and reads back doubled.
            let got = socket.recv_buffer_size()? / 2;
            if got < value as usize {
                log::warn!(
                    "receive buffer of {got} bytes instead of {bytes}: raise net.core.rmem_max, or give CAP_NET_ADMIN"
                );
            }
            Ok(())
        }
        result => result,
    }
}

fn set_option(socket: &Socket, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the pointer and the length are those of a live integer, which is what these options take.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Datagrams that `socket` lost since it was opened, modulo 2^32: its receive buffer was full, or their
/// checksum was wrong.
///
/// SO_MEMINFO (sock_diag(7), Linux 4.12) and not SO_RXQ_OVFL, which comes with a datagram and so never tells
/// of what was lost after the last one.
///
/// # Errors
/// Those of getsockopt(2).
pub fn drops(socket: BorrowedFd<'_>) -> io::Result<u32> {
    const DROPS: usize = libc::SK_MEMINFO_DROPS as usize;
    let mut info = [0_u32; DROPS + 1];
    let mut length = size_of_val(&info) as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `info`, which has that many.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            info.as_mut_ptr().cast(),
            &mut length,
        )
    };
    if result == 0 { Ok(info[DROPS]) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn a_port_in_use_is_one_line_with_address_and_advice() {
        let first = open("127.0.0.1:0".parse().unwrap(), 4096).unwrap();
        let address = first.local_addr().unwrap();
        let error = format!("{:#}", open(address, 4096).unwrap_err());
        assert!(
            error.starts_with(&format!("cannot listen on {address}: address already in use: ")),
            "{error}"
        );
        assert!(!error.contains('\n'));
    }

    #[test]
    fn an_address_of_another_host_is_named() {
        let error = format!("{:#}", open("192.0.2.1:4789".parse().unwrap(), 4096).unwrap_err());
        assert!(error.starts_with("cannot listen on 192.0.2.1:4789: no interface of this host"), "{error}");
    }

    #[test]
    fn all_ipv6_addresses_include_ipv4() {
        let Ok(receiver) = open("[::]:0".parse().unwrap(), 4096) else {
            eprintln!("skipped: this host has no IPv6");
            return;
        };
        let port = receiver.local_addr().unwrap().port();
        UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"four", ("127.0.0.1", port)).unwrap();
        let mut buffer = [0; 8];
        assert_eq!(receiver.recv(&mut buffer).unwrap(), 4);
    }

    #[test]
    fn what_a_full_buffer_loses_is_counted() {
        let receiver = open("127.0.0.1:0".parse().unwrap(), 1).unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(drops(receiver.as_fd()).unwrap(), 0);
        for _ in 0..100 {
            sender.send_to(&[0; 1000], receiver.local_addr().unwrap()).unwrap();
        }
        receiver.set_nonblocking(true).unwrap();
        let mut received = 0;
        while receiver.recv(&mut [0; 1000]).is_ok() {
            received += 1;
        }
        assert_eq!(received + drops(receiver.as_fd()).unwrap(), 100);
        assert!(received < 100);
    }
}

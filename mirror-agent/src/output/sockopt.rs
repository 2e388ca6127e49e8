//! What the senders ask of the kernel beyond what socket2 offers.

use std::{
    io, mem,
    os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd},
};

/// Bytes that may wait in a socket, so that a burst does not wait for the card.
pub(super) const SEND_BUFFER: i32 = 8 << 20;

/// A type that is all integers: any bytes are a value of it, and it has no padding.
///
/// # Safety
///
/// What the sentence above says.
pub(crate) unsafe trait Plain: Copy {}

// SAFETY: an integer.
unsafe impl Plain for i32 {}
// SAFETY: integers; its padding, if any, is only ever written by the kernel.
unsafe impl Plain for libc::xdp_mmap_offsets {}

/// A new socket, closed on exec.
pub(crate) fn open(domain: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: socket touches no memory.
    let fd = unsafe { libc::socket(domain, kind | libc::SOCK_CLOEXEC, protocol) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` was just opened, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sets an option whose value is a `T`.
pub(crate) fn set<T>(socket: &impl AsFd, level: i32, name: i32, value: &T) -> io::Result<()> {
    // SAFETY: `value` is readable for its own size, which is said. What it points to, where it is a program
    // or an area of memory, the caller keeps alive as long as the kernel uses it.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            (&raw const *value).cast(),
            mem::size_of::<T>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Reads an option whose value is a `T`.
pub(crate) fn get<T: Plain>(socket: &impl AsFd, level: i32, name: i32) -> io::Result<T> {
    // SAFETY: any bytes are a value of a plain type.
    let mut value: T = unsafe { mem::zeroed() };
    let mut length = mem::size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `value`.
    let result = unsafe {
        libc::getsockopt(socket.as_fd().as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut length)
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    if length as usize != mem::size_of::<T>() {
        return Err(io::Error::other("the kernel knows an option in another form"));
    }
    Ok(value)
}

/// Lets [`SEND_BUFFER`] bytes wait in a socket: beyond net.core.wmem_max with CAP_NET_ADMIN, else as far as
/// that allows.
pub(super) fn widen_send_buffer(socket: &impl AsFd) -> io::Result<()> {
    set(socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &SEND_BUFFER)
        .or_else(|_| set(socket, libc::SOL_SOCKET, libc::SO_SNDBUF, &SEND_BUFFER))
}

/// Whether all that was given to the socket has left this host, or the network namespace: its buffers were
/// freed, or are another's (`sk_wmem_alloc`, told by SIOCOUTQ).
pub(super) fn is_drained(socket: &impl AsFd) -> bool {
    let mut bytes: libc::c_int = 0;
    // SAFETY: SIOCOUTQ (TIOCOUTQ by its other name) writes an int.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    // A socket that cannot tell makes nobody wait.
    result != 0 || bytes == 0
}

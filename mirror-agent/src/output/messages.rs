//! Messages for sendmmsg(2): headers and what follows them, gathered from where they lie.

use std::{io, mem, os::fd::AsRawFd};

use arrayvec::ArrayVec;

use crate::source::BATCH;

/// Pieces of a message: outer headers, then a frame in the two parts that it lies in.
pub(super) type Pieces = [libc::iovec; 3];

/// The pieces at these places. The kernel only reads what it sends.
pub(super) fn pieces(pieces: [&[u8]; 3]) -> Pieces {
    pieces.map(|piece| libc::iovec { iov_base: piece.as_ptr().cast_mut().cast(), iov_len: piece.len() })
}

/// One message for each element of `pieces`, at most [`BATCH`]. They point to `pieces`, which is to stay as long as
/// they are used, and so is what the pieces point to.
pub(super) fn messages(pieces: &mut ArrayVec<Pieces, BATCH>) -> ArrayVec<libc::mmsghdr, BATCH> {
    pieces
        .iter_mut()
        .map(|pieces| {
            // SAFETY: all-zero is a valid mmsghdr: null pointers and zero lengths.
            let mut message: libc::mmsghdr = unsafe { mem::zeroed() };
            message.msg_hdr.msg_iov = pieces.as_mut_ptr();
            message.msg_hdr.msg_iovlen = pieces.len() as _;
            message
        })
        .collect()
}

/// Sends what of `messages` the kernel takes in one call, and returns how many. The C library is not asked: musl makes one
/// call for each message.
///
/// # Safety
///
/// All messages point to iovecs, and these to bytes, that are alive.
///
/// # Errors
///
/// What sendmmsg(2) says.
pub(super) unsafe fn send(
    socket: &impl AsRawFd,
    messages: &mut [libc::mmsghdr],
    flags: libc::c_int,
) -> io::Result<usize> {
    // SAFETY: the caller vouches for the messages, and the length is theirs. The kernel takes the lengths in them for
    // words of eight bytes, of which musl's has four: those behind are padding, zero in an all-zero mmsghdr as
    // `messages` makes them, and the machine is a little-endian one.
    let sent = unsafe {
        libc::syscall(
            libc::SYS_sendmmsg,
            socket.as_raw_fd(),
            messages.as_mut_ptr(),
            messages.len() as libc::c_uint,
            flags,
        )
    };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

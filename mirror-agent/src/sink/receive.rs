//! Datagrams from the socket, many a system call.

use std::{
    array, io, mem,
    os::fd::{AsRawFd as _, BorrowedFd},
    ptr,
    time::{SystemTime, UNIX_EPOCH},
};

/// Datagrams a call.
const BATCH: usize = 64;

/// Bytes from one buffer to the next. Every datagram fits 65,536 bytes; the rest keeps the buffers from
/// starting a power of two apart, where their first bytes, all that most datagrams have, share cache sets.
const STRIDE: usize = 65_536 + 1_536;

/// Room for the one control message that the socket asks for, its time stamp; aligned as cmsghdr is.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; CONTROL_LEN]);

// SAFETY: CMSG_SPACE only computes.
const CONTROL_LEN: usize = unsafe { libc::CMSG_SPACE(size_of::<libc::timespec>() as u32) } as usize;

/// A UDP payload and when it arrived.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    pub payload: &'a [u8],
    /// Nanoseconds since 1970-01-01 00:00:00 UTC, taken by the kernel on arrival.
    pub time_ns: u64,
}

/// Buffers for the datagrams of one call, allocated once.
pub struct Batch {
    buffers: Box<[u8]>,
    lengths: [usize; BATCH],
    times_ns: [u64; BATCH],
    filled: usize,
}

impl Batch {
    #[must_use]
    pub fn new() -> Self {
        Self { buffers: vec![0; BATCH * STRIDE].into(), lengths: [0; BATCH], times_ns: [0; BATCH], filled: 0 }
    }

    /// Replaces what is held by what `socket` has queued, up to a batch of it; waits for nothing.
    /// Returns how many datagrams there are.
    ///
    /// # Errors
    /// Those of recvmmsg(2), but for the two that mean "nothing there".
    pub fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        self.filled = 0;
        let mut buffers = self.buffers.chunks_exact_mut(STRIDE);
        let mut parts: [libc::iovec; BATCH] = array::from_fn(|_| {
            let buffer = buffers.next().unwrap_or_default();
            libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() }
        });
        let mut controls = [Control([0; CONTROL_LEN]); BATCH];
        let mut messages: [libc::mmsghdr; BATCH] = array::from_fn(|index| {
            // SAFETY: all-zero bytes are a valid mmsghdr: no address, no parts, no control messages.
            let mut message = unsafe { mem::zeroed::<libc::mmsghdr>() };
            message.msg_hdr.msg_iov = &raw mut parts[index];
            message.msg_hdr.msg_iovlen = 1;
            message.msg_hdr.msg_control = (&raw mut controls[index]).cast();
            message.msg_hdr.msg_controllen = CONTROL_LEN as _;
            message
        });

        // SAFETY: there are BATCH messages; each points to one part and one control buffer with their true
        // lengths, and all of them, as well as the buffers of the parts, outlive the call.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                messages.as_mut_ptr(),
                BATCH as u32,
                libc::MSG_DONTWAIT as _,
                ptr::null_mut(),
            )
        };
        let Ok(received) = usize::try_from(received) else {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(0),
                _ => Err(error),
            };
        };

        for (index, message) in messages.iter().take(received).enumerate() {
            self.lengths[index] = message.msg_len as usize;
            // SAFETY: the kernel filled this message, and its control buffer is still there.
            self.times_ns[index] = unsafe { arrival_ns(&message.msg_hdr) }.unwrap_or_else(now_ns);
        }
        self.filled = received;
        Ok(received)
    }

    /// What the last call received, in the order of the queue.
    pub fn datagrams(&self) -> impl Iterator<Item = Datagram<'_>> {
        let held = self.buffers.chunks_exact(STRIDE).zip(self.lengths).zip(self.times_ns);
        held.take(self.filled)
            .map(|((buffer, length), time_ns)| Datagram { payload: &buffer[..length], time_ns })
    }
}

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}

/// The clock that the kernel's time stamps come from.
#[must_use]
pub fn now_ns() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX)
}

/// The time stamp among the control messages.
///
/// # Safety
/// `message` must be as recvmmsg left it, its control buffer valid for reads.
unsafe fn arrival_ns(message: &libc::msghdr) -> Option<u64> {
    // SAFETY: the caller vouches for the control buffer; the macros stay within msg_controllen.
    let mut control = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !control.is_null() {
        // SAFETY: not null, so a whole header inside the buffer, which is aligned for it.
        let header = unsafe { &*control };
        if header.cmsg_level == libc::SOL_SOCKET
            && header.cmsg_type == libc::SCM_TIMESTAMPNS
            // SAFETY: only computes.
            && header.cmsg_len as usize >= unsafe { libc::CMSG_LEN(size_of::<libc::timespec>() as u32) } as usize
        {
            // SAFETY: the length says that a timespec follows the header; it may be unaligned.
            let time = unsafe { libc::CMSG_DATA(control).cast::<libc::timespec>().read_unaligned() };
            let seconds = u64::try_from(time.tv_sec).ok()?;
            let nanoseconds = u64::try_from(time.tv_nsec).ok()?;
            return seconds.checked_mul(1_000_000_000)?.checked_add(nanoseconds);
        }
        // SAFETY: as for the first.
        control = unsafe { libc::CMSG_NXTHDR(message, control) };
    }
    None
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{net::UdpSocket, os::fd::AsFd as _};

    use super::*;

    #[test]
    fn batches_keep_order_and_lengths_from_nothing_to_the_largest() {
        let receiver = crate::sink::socket::open("127.0.0.1:0".parse().unwrap(), 4 << 20).unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.connect(receiver.local_addr().unwrap()).unwrap();
        let before = now_ns();
        let lengths = (0..BATCH + 6).map(|index| if index == 3 { 65_507 } else { index });
        for (index, length) in lengths.clone().enumerate() {
            sender.send(&vec![index as u8; length]).unwrap();
        }

        let mut batch = Batch::new();
        let mut seen = Vec::new();
        for expected in [BATCH, 6, 0] {
            assert_eq!(batch.receive(receiver.as_fd()).unwrap(), expected);
            for datagram in batch.datagrams() {
                assert!((before..=now_ns()).contains(&datagram.time_ns));
                assert!(datagram.payload.iter().all(|&byte| usize::from(byte) == seen.len()));
                seen.push(datagram.payload.len());
            }
        }
        assert_eq!(seen, lengths.collect::<Vec<_>>());
    }
}

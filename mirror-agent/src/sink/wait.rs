//! Sleeping until there is something to do.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
    time::Duration,
};

/// What there is to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    /// The socket has datagrams, or an error to tell.
    pub datagrams: bool,
    /// The stop descriptor is readable.
    pub stop: bool,
    /// Nobody reads the output any more: it is a pipe whose other end was closed.
    pub output_closed: bool,
}

/// Sleeps until one of the three is true or `timeout` has passed (`None`: for ever), or a signal comes.
///
/// # Errors
/// Those of poll(2).
pub fn wait(
    socket: BorrowedFd<'_>,
    stop: BorrowedFd<'_>,
    output: Option<BorrowedFd<'_>>,
    timeout: Option<Duration>,
) -> io::Result<Ready> {
    let entry = |fd: Option<BorrowedFd<'_>>, events| libc::pollfd {
        // poll(2) skips negative descriptors.
        fd: fd.map_or(-1, |fd| fd.as_raw_fd()),
        events,
        revents: 0,
    };
    // No events asked of the output: poll(2) tells of errors and hang-ups all the same.
    let mut entries = [entry(Some(socket), libc::POLLIN), entry(Some(stop), libc::POLLIN), entry(output, 0)];
    // SAFETY: the pointer and the count are those of a live array.
    let result = unsafe {
        libc::poll(entries.as_mut_ptr(), entries.len() as libc::nfds_t, timeout.map_or(-1, milliseconds))
    };
    if result < 0 {
        let error = io::Error::last_os_error();
        return if error.kind() == io::ErrorKind::Interrupted { Ok(Ready::default()) } else { Err(error) };
    }
    let [socket, stop, output] = entries.map(|entry| entry.revents);
    Ok(Ready {
        datagrams: socket != 0,
        stop: stop != 0,
        output_closed: output & (libc::POLLERR | libc::POLLHUP) != 0,
    })
}

/// Rounded up, so that what was waited for has come on return; the largest number is 24 days.
fn milliseconds(timeout: Duration) -> libc::c_int {
    libc::c_int::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(libc::c_int::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_round_up_and_end_somewhere() {
        assert_eq!(milliseconds(Duration::ZERO), 0);
        assert_eq!(milliseconds(Duration::from_nanos(1)), 1);
        assert_eq!(milliseconds(Duration::MAX), libc::c_int::MAX);
    }
}

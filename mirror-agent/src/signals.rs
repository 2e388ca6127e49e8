//! Stopping on SIGINT and SIGTERM: the first asks for an orderly end, a later one ends the program at once.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    sync::{
        OnceLock,
        atomic::{AtomicI32, AtomicI64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};

/// A signal this soon after the first belongs to it: timeout(1) signals a process and then its group.
const SAME_REQUEST: Duration = Duration::from_secs(1);

/// Both ends of the pipe, kept for ever because a signal may come at any time.
static PIPE: OnceLock<(io::PipeReader, io::PipeWriter)> = OnceLock::new();

/// The pipe's writing end, for the handler, which may not wait for [`PIPE`]'s lock.
static WRITER: AtomicI32 = AtomicI32::new(-1);

/// When the first signal came, in [`monotonic_ns`]; 0 before that.
static FIRST_NS: AtomicI64 = AtomicI64::new(0);

/// Catches SIGINT and SIGTERM. The descriptor becomes readable at the first of them, and stays so: never
/// read it, wait for it with poll(2).
///
/// A signal a second or more later has its default effect, so that a program that hangs in a write to
/// a stuck pipe can still be ended with Ctrl-C.
///
/// # Errors
/// Where the process has no descriptor left for the pipe.
pub fn on_signals() -> Result<BorrowedFd<'static>> {
    let reader = match PIPE.get() {
        Some((reader, _)) => reader,
        None => {
            let pipe = io::pipe().context("cannot make a pipe for signals")?;
            let (reader, writer) = PIPE.get_or_init(|| pipe);
            WRITER.store(writer.as_raw_fd(), Ordering::SeqCst);
            reader
        }
    };
    for signal in [libc::SIGINT, libc::SIGTERM] {
        catch(signal).with_context(|| format!("cannot catch signal {signal}"))?;
    }
    Ok(reader.as_fd())
}

fn catch(signal: libc::c_int) -> io::Result<()> {
    // SAFETY: all-zero bytes are a valid sigaction: no flags, no handler yet.
    let mut action = unsafe { std::mem::zeroed::<libc::sigaction>() };
    action.sa_sigaction = handle as extern "C" fn(libc::c_int) as libc::sighandler_t;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: both pointers are to live values; the handler has the signature that goes without SA_SIGINFO
    // and calls only what signal-safety(7) lists.
    let result = unsafe {
        libc::sigemptyset(&mut action.sa_mask);
        libc::sigaction(signal, &action, std::ptr::null_mut())
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

extern "C" fn handle(signal: libc::c_int) {
    // SAFETY: the address of this thread's errno is always valid.
    let errno = unsafe { *libc::__errno_location() };
    let now = monotonic_ns();
    match FIRST_NS.compare_exchange(0, now, Ordering::SeqCst, Ordering::SeqCst) {
        Ok(_) => {
            let fd = WRITER.load(Ordering::SeqCst);
            // SAFETY: one byte from a live array; the descriptor is never closed.
            unsafe { libc::write(fd, [0_u8].as_ptr().cast(), 1) };
        }
        Err(first) if now.saturating_sub(first) >= SAME_REQUEST.as_nanos() as i64 => {
            // SAFETY: both are safe in a handler; the signal is delivered, and ends the process, on return.
            unsafe {
                libc::signal(signal, libc::SIG_DFL);
                libc::raise(signal);
            }
        }
        Err(_) => {}
    }
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

/// Nanoseconds since some point in the past, never 0. `Instant` promises nothing for signal handlers.
fn monotonic_ns() -> i64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is live; the clock exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    (now.tv_sec * 1_000_000_000 + now.tv_nsec).max(1)
}

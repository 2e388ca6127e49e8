//! Ctrl-C: the run unwinds, so that the guards of hosts and programs clean up.

use std::{
    panic, ptr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
/// How often a wait looks.
const SLICE: Duration = Duration::from_millis(20);

/// What a run unwinds with.
#[derive(Debug)]
pub struct Interrupted;

/// Takes SIGINT, SIGTERM and SIGHUP from now on.
///
/// # Panics
/// Where the kernel refuses.
pub fn arm() {
    extern "C" fn note(_signal: libc::c_int) {
        INTERRUPTED.store(true, Ordering::Relaxed);
    }
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: zero is a value for every field: no flags and no mask.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_flags = libc::SA_RESTART;
        action.sa_sigaction = note as extern "C" fn(libc::c_int) as libc::sighandler_t;
        // SAFETY: `action` is whole, and the handler only stores to an atomic.
        let result = unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) };
        assert_eq!(result, 0, "cannot take signal {signal}");
    }
}

/// Whether there was a signal.
#[must_use]
pub fn came() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Unwinds where there was a signal.
///
/// # Panics
/// So to say: without the message of a panic.
pub fn check() {
    if came() {
        panic::resume_unwind(Box::new(Interrupted));
    }
}

/// Sleeps, and unwinds where there is a signal.
pub fn sleep(time: Duration) {
    let end = Instant::now() + time;
    loop {
        check();
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        thread::sleep(left.min(SLICE));
    }
}

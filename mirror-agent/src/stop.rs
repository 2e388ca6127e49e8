//! How the control plane ends the sending threads.

use std::{
    os::fd::{AsFd, BorrowedFd},
    sync::atomic::{AtomicU8, Ordering},
};

use nix::sys::eventfd::{EfdFlags, EventFd};

/// Shared by all threads. It only ever moves forward: run, drain, give up.
#[derive(Debug)]
pub struct Stop {
    state: AtomicU8,
    wake: EventFd,
}

const DRAINS: u8 = 1;
const GIVES_UP: u8 = 2;

impl Stop {
    /// Threads run.
    ///
    /// # Errors
    ///
    /// Out of file descriptors.
    pub fn new() -> nix::Result<Self> {
        let wake = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        Ok(Self { state: AtomicU8::new(0), wake })
    }

    /// No hook writes any more: threads send what their rings hold, and end.
    pub fn drain(&self) {
        self.move_to(DRAINS);
    }

    /// Threads count what their rings hold as failed, and end.
    pub fn give_up(&self) {
        self.move_to(GIVES_UP);
    }

    fn move_to(&self, state: u8) {
        self.state.fetch_max(state, Ordering::Release);
        // Fails only if the count would overflow; then it is not 0, which is all that matters.
        let _ = self.wake.write(1);
    }

    /// Whether threads end when their rings are empty.
    pub fn drains(&self) -> bool {
        self.state.load(Ordering::Acquire) >= DRAINS
    }

    /// Whether threads send nothing any more.
    pub fn gives_up(&self) -> bool {
        self.state.load(Ordering::Acquire) >= GIVES_UP
    }
}

impl AsFd for Stop {
    /// Readable once the threads are to end.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

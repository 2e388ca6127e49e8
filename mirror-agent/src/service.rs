//! What a service manager is told: systemd's protocol, a datagram of a few words to the socket that `NOTIFY_SOCKET`
//! names. Where nobody asks for it, nothing is done.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;

/// Everything that was asked for is there, or the configuration was read anew.
pub fn ready() {
    notify(&[NotifyState::Ready]);
}

/// What people get to see beside the service's name.
pub fn status(text: &str) {
    notify(&[NotifyState::Status(text)]);
}

/// The configuration is read anew; [`ready`] ends that.
pub fn reloading() {
    // With the time, which `Type=notify-reload` wants.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(_) => notify(&[NotifyState::Reloading]),
    }
}

/// No more frames are taken; what was captured is sent.
pub fn stopping() {
    notify(&[NotifyState::Stopping]);
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        log::debug!("cannot tell the service manager: {error}");
    }
}

/// Tells the service manager that the control plane is alive, as often as it wants to hear.
#[derive(Debug)]
pub struct Watchdog {
    every: Option<Duration>,
    due: Option<Instant>,
}

impl Watchdog {
    /// As the service manager asks for.
    #[must_use]
    pub fn of_process() -> Self {
        // Half of it, as sd_watchdog_enabled(3) has it.
        let every = sd_notify::watchdog_enabled().map(|patience| patience / 2);
        Self { every, due: every.map(|_| Instant::now()) }
    }

    /// When [`Watchdog::tell`] is due. Never, where nobody asks.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Tells, and says when it is due again.
    pub fn tell(&mut self) {
        notify(&[NotifyState::Watchdog]);
        self.due = self.every.and_then(|every| Instant::now().checked_add(every));
    }
}

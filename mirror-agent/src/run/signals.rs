//! The signals that end a run, and the one that changes it.

use anyhow::{Context as _, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// The run is to end.
    End,
    /// What can be read again is to be.
    Reload,
}

/// SIGINT and SIGTERM, from the moment on that this exists.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// SIGHUP, where there is something to read again. Where there is not, it ends the process as ever.
    hangup: Option<Signal>,
}

impl Signals {
    /// Catches them, and SIGHUP too if `reloads`.
    ///
    /// # Errors
    ///
    /// The system refuses.
    pub fn new(reloads: bool) -> Result<Self> {
        let catch = |kind| signal(kind).context("cannot catch signals");
        Ok(Self {
            interrupt: catch(SignalKind::interrupt())?,
            terminate: catch(SignalKind::terminate())?,
            hangup: reloads.then(|| catch(SignalKind::hangup())).transpose()?,
        })
    }

    /// Waits for the next one that asks to read again what can be read again, or for one that ends the run.
    pub async fn next_of_all(&mut self) -> Asked {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => drop(hangup.recv().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => Asked::End,
            _ = self.terminate.recv() => Asked::End,
            () = hangup => Asked::Reload,
        }
    }

    /// Waits for the next one.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

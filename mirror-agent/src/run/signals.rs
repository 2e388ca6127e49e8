//! The signals that end a run, and the one that has it read its configuration anew.

use anyhow::{Context as _, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGINT, SIGTERM and SIGHUP, from the moment on that this exists.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// Where there is a file to read: else it ends the program, as it does others.
    hangup: Option<Signal>,
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// An end.
    Stop,
    /// A look at the configuration.
    Reload,
}

impl Signals {
    /// Catches them. `reloads`: SIGHUP too.
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

    /// Waits for the next one of all.
    pub async fn any(&mut self) -> Request {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => Request::Stop,
            _ = self.terminate.recv() => Request::Stop,
            _ = hangup => Request::Reload,
        }
    }

    /// Waits for the next one that ends the run.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

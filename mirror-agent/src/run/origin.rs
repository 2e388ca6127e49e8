//! Where a run's frames come from, as the control plane sees it.

use std::sync::Arc;

use anyhow::Result;
use mirror_common::record::Direction;
use tokio::time::Instant as Deadline;

use super::interfaces::Interfaces;
use crate::{
    kernel::{accounts::Seen, hooks::Hooks},
    ledger::Ledger,
    limit::Limit,
    links::Links,
    redirect::Redirect,
    source::replay::playback::{Playback, Played},
};

/// Interfaces or captures.
pub enum Origin {
    /// Hooks on interfaces.
    Live {
        hooks: Box<Hooks>,
        /// `--limit`: what hooks see beyond it is no part of the run.
        limit: Option<Arc<Limit>>,
        /// In redirect mode, what sends.
        redirect: Option<Box<Redirect>>,
        /// The host's interfaces, and which of them are meant.
        interfaces: Box<Interfaces>,
    },
    /// Captures that are played.
    Replay(Arc<Playback>),
}

/// What one interface, in one direction, or one capture contributed.
#[derive(Clone, Debug, Default)]
pub struct Contribution {
    /// The interface, or the capture as it was named.
    pub name: String,
    /// Which way its frames went; none of a capture.
    pub direction: Option<Direction>,
    /// Bytes of the frames seen.
    pub bytes: u64,
    /// Frames seen, and what became of those that no sending thread got.
    pub frames: Ledger,
    /// Of those that were sent without one: how many were cut.
    pub truncated: u64,
    /// Of the same: datagrams.
    pub datagrams: u64,
    /// Of the same: UDP payload in bytes.
    pub payload: u64,
    /// Of the same: frames on the wire, where each goes to several sensors.
    pub segments: u64,
}

impl Origin {
    /// Lets go of the interfaces: no frame is seen after this.
    pub async fn detach(&mut self, links: &Links) {
        match self {
            Self::Live { hooks, redirect, .. } => {
                hooks.detach_all().await;
                if let Some(redirect) = redirect {
                    redirect.stop(links).await;
                }
            }
            Self::Replay(_) => {}
        }
    }

    /// When [`Self::follow_ways`] is to be called; never, but in redirect mode.
    pub fn redirect_due(&self) -> Option<Deadline> {
        match self {
            Self::Live { redirect: Some(redirect), interfaces, .. } => {
                let due = if interfaces.has_waiting() { redirect.due_at_leisure() } else { redirect.due() };
                Some(Deadline::from_std(due))
            }
            _ => None,
        }
    }

    /// Looks again how datagrams leave this host, where the kernel programs send them.
    pub async fn follow_ways(&mut self, links: &Links) {
        if let Self::Live { hooks, redirect: Some(redirect), .. } = self {
            redirect.follow(hooks.ebpf(), links).await;
        }
    }

    /// What sends, in redirect mode.
    pub fn redirect(&self) -> Option<&Redirect> {
        match self {
            Self::Live { redirect, .. } => redirect.as_deref(),
            Self::Replay(_) => None,
        }
    }

    /// The same.
    pub fn redirect_mut(&mut self) -> Option<&mut Redirect> {
        match self {
            Self::Live { redirect, .. } => redirect.as_deref_mut(),
            Self::Replay(_) => None,
        }
    }

    /// Whether [`Self::attach_next`] has something to do.
    pub fn has_waiting(&self) -> bool {
        matches!(self, Self::Live { interfaces, .. } if interfaces.has_waiting())
    }

    /// Attaches to one of the interfaces that wait for it.
    pub async fn attach_next(&mut self) {
        if let Self::Live { hooks, interfaces, .. } = self {
            interfaces.attach_next(hooks).await;
        }
    }

    /// When [`Self::tidy`] is to be called, if it is.
    pub fn tidy_due(&self) -> Option<Deadline> {
        match self {
            Self::Live { hooks, interfaces, .. } => interfaces.due(hooks).map(Deadline::from_std),
            Self::Replay(_) => None,
        }
    }

    /// Does what has time.
    pub async fn tidy(&mut self) {
        if let Self::Live { hooks, interfaces, .. } = self {
            interfaces.tidy(hooks).await;
        }
    }

    /// Whether as many frames have come as were asked for, where the kernel programs count them.
    pub fn is_limit_reached(&self) -> bool {
        match self {
            Self::Live { redirect: Some(redirect), .. } => redirect.is_limit_reached(),
            _ => false,
        }
    }

    /// What kept the kernel programs from sending, by errno.
    ///
    /// # Errors
    ///
    /// The kernel does not give the counts.
    pub fn send_errors(&self) -> Result<Vec<(i32, u64)>> {
        match self {
            Self::Live { redirect: Some(redirect), .. } => redirect.errors(),
            _ => Ok(Vec::new()),
        }
    }

    /// What could not be read, in one line. `None` where there was no such thing.
    pub fn failure(&self) -> Option<String> {
        match self {
            Self::Live { .. } => None,
            Self::Replay(playback) => playback.failure(),
        }
    }

    /// Bytes of the captures, as they are stored, that have been sent; 0 of a live run.
    pub fn position(&self) -> u64 {
        match self {
            Self::Live { .. } => 0,
            Self::Replay(playback) => playback.position(),
        }
    }

    /// What each interface or capture contributed so far.
    ///
    /// # Errors
    ///
    /// The kernel does not give the hooks' counters.
    pub fn contributions(&self) -> Result<Vec<Contribution>> {
        match self {
            Self::Live { hooks, limit, .. } => live(hooks, limit.as_deref()),
            Self::Replay(playback) => Ok(playback.played().map(replayed).collect()),
        }
    }
}

fn live(hooks: &Hooks, limit: Option<&Limit>) -> Result<Vec<Contribution>> {
    let contribution = |seen: Seen| {
        let beyond = |limit: &Limit| limit.beyond(&seen.ifindexes, seen.direction as u16);
        let beyond = limit.map(beyond).unwrap_or_default();
        let counters = seen.counters;
        Contribution {
            name: seen.name,
            direction: Some(seen.direction),
            bytes: counters.bytes.saturating_sub(beyond.bytes),
            frames: Ledger {
                seen: counters.seen.saturating_sub(beyond.frames),
                filtered: counters.filtered,
                own: counters.own,
                sampled_out: counters.sampled_out,
                rate_limited: counters.rate_limited,
                ring_full: counters.ring_full,
                copy_failed: counters.copy_failed,
                too_big: counters.too_big,
                sent: counters.sent,
                send_failed: counters.send_failed,
            },
            truncated: counters.truncated,
            datagrams: counters.datagrams,
            payload: counters.payload,
            segments: counters.segments,
        }
    };
    Ok(hooks.seen()?.into_iter().map(contribution).collect())
}

fn replayed(played: Played) -> Contribution {
    let Played { name, seen, bytes, filtered, unplayable, too_big, sampled_out, rate_limited } = played;
    Contribution {
        name,
        bytes,
        frames: Ledger {
            seen,
            filtered,
            copy_failed: unplayable,
            too_big,
            sampled_out,
            rate_limited,
            ..Ledger::default()
        },
        ..Contribution::default()
    }
}

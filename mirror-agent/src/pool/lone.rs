//! What is known of a sensor that is the only one: there is no other to send to, but somebody may want to know.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{FAILED_IN_A_ROW, health::Reason, reach};
use crate::links::Links;

/// How often it is looked whether it refuses: a glance at a few counters.
pub const PERIOD: Duration = Duration::from_secs(1);

/// It is taken to be down for so long after the last sign of it: hosts and routers send an answer a second at most
/// (`icmp_ratelimit` in the kernel's ip-sysctl.rst).
const MEMORY: Duration = Duration::from_secs(4);

/// A look at the way to it is good for so long.
const GLANCE_TIME: Duration = Duration::from_secs(1);

/// What was counted so far that speaks against a sensor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refusals {
    /// Datagrams that were sent: these speak for it.
    pub datagrams: u64,
    /// Frames that this host could not send.
    pub failed: u64,
    /// Answers of the network, that a datagram was not taken at its end.
    pub unreached: u64,
}

impl Refusals {
    /// With more such answers.
    #[must_use]
    pub fn and_unreached(self, more: u64) -> Self {
        Self { unreached: self.unreached + more, ..self }
    }
}

/// What is known of the sensor.
#[derive(Debug, Default)]
pub struct Lone {
    before: Refusals,
    failed_in_a_row: u64,
    against: Option<(Instant, Reason)>,
    /// What the last look at the way to it showed.
    glance: Option<(Instant, SocketAddr, Option<String>)>,
}

impl Lone {
    /// Takes note of what was counted so far.
    pub fn note(&mut self, now: Instant, counted: Refusals) {
        let before = std::mem::replace(&mut self.before, counted);
        if counted.datagrams != before.datagrams {
            self.failed_in_a_row = 0;
        } else {
            self.failed_in_a_row += counted.failed.saturating_sub(before.failed);
        }
        if counted.unreached > before.unreached {
            self.against = Some((now, Reason::Refused));
        } else if self.failed_in_a_row >= FAILED_IN_A_ROW {
            self.failed_in_a_row = 0;
            self.against = Some((now, Reason::Failing));
        }
    }

    /// What spoke against it a moment ago.
    fn against(&self) -> Option<Reason> {
        self.against.filter(|(since, _)| since.elapsed() < MEMORY).map(|(_, reason)| reason)
    }

    /// Whether it is taken to be down, by what was found out last.
    #[must_use]
    pub fn is_down(&self) -> bool {
        self.against().is_some() || matches!(self.glance, Some((_, _, Some(_))))
    }

    /// Why it is not reachable, as far as is known.
    pub async fn unreachable(&mut self, links: &Links, sensor: SocketAddr) -> Option<String> {
        let is_fresh =
            |(looked, of, _): &(Instant, SocketAddr, _)| *of == sensor && looked.elapsed() < GLANCE_TIME;
        if !self.glance.as_ref().is_some_and(is_fresh) {
            let seen = match reach::glance(links, sensor).await {
                Ok(why) => why,
                Err(error) => {
                    log::debug!("cannot find out whether {sensor} is there: {error:#}");
                    None
                }
            };
            self.glance = Some((Instant::now(), sensor, seen));
        }
        let of_way = self.glance.as_ref().and_then(|(_, _, why)| why.clone());
        of_way.or_else(|| self.against().map(|reason| reason.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_down_for_a_while_after_each_sign() {
        let mut lone = Lone::default();
        let now = Instant::now();
        let counted = |datagrams, failed, unreached| Refusals { datagrams, failed, unreached };
        lone.note(now, counted(9, 2, 0));
        assert!(!lone.is_down(), "frames were sent too");
        lone.note(now, counted(9, 4, 0));
        assert!(!lone.is_down());
        lone.note(now, counted(9, 5, 0));
        assert_eq!(lone.against(), Some(Reason::Failing));
        let mut lone = Lone::default();
        lone.note(now - MEMORY, counted(9, 0, 1));
        assert!(!lone.is_down(), "long ago");
        lone.note(now, counted(10, 0, 1));
        assert!(!lone.is_down());
        lone.note(now, counted(11, 0, 2));
        assert_eq!(lone.against(), Some(Reason::Refused));
    }
}

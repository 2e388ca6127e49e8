//! Whether a sensor is there: marked down where it refuses, tried again after a while.

use std::{
    fmt::{self, Display, Formatter},
    time::{Duration, Instant},
};

use super::rendezvous::Part;

/// How long a sensor is left alone at first; twice as long each time that it is tried in vain.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// The longest of these.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// How long a part of its flows is sent to one that may be back, to see whether anybody refuses: longer than an answer
/// takes, and than routers and hosts keep answers back (`icmp_ratelimit` in the kernel's ip-sysctl.rst: a second).
const TRIAL_TIME: Duration = Duration::from_millis(1500);

/// How long it has to be there until its next failure is a new one.
const TRUSTED_TIME: Duration = Duration::from_secs(30);

/// What was noticed since the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signs {
    /// Why it is not there, if anything said so.
    pub against: Option<Reason>,
    /// Whether it is certain that nobody is there to send to.
    pub is_unreachable: bool,
}

/// Why a sensor is taken to be down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The network answered that a datagram was not taken at its end.
    Refused,
    /// This host could not send several frames in a row.
    Failing,
    /// The next hop does not answer, its interface has no link, or there is no route.
    Unreachable,
}

impl Display for Reason {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "the network or its host refuses what is sent to it",
            Self::Failing => "nothing can be sent to it",
            Self::Unreachable => "the way to it does not answer",
        })
    }
}

/// What changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// It is down.
    Down(Reason),
    /// It is still down: a trial was in vain.
    Still(Reason),
    /// It gets a part of its flows, to see whether it is back.
    Trial,
    /// It is back, after so long.
    Up(Duration),
}

/// One sensor's.
#[derive(Clone, Debug)]
pub struct Health {
    state: State,
    pause: Duration,
    /// Of the times that are over.
    down_time: Duration,
    times: u32,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Up { since: Instant },
    Down { since: Instant, until: Instant },
    Trial { down_since: Instant, until: Instant },
}

impl Health {
    /// There, as far as is known.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { state: State::Up { since: now }, pause: PAUSE_MIN, down_time: Duration::ZERO, times: 0 }
    }

    /// Draws a conclusion.
    pub fn look(&mut self, now: Instant, signs: Signs) -> Option<Event> {
        let against = signs.against.or(signs.is_unreachable.then_some(Reason::Unreachable));
        match (self.state, against) {
            (State::Up { since }, Some(reason)) => {
                if now - since >= TRUSTED_TIME {
                    self.pause = PAUSE_MIN;
                }
                self.times += 1;
                self.state = State::Down { since: now, until: now + self.pause };
                Some(Event::Down(reason))
            }
            (State::Up { .. }, None) => None,
            (State::Down { since, until }, _) if now >= until => {
                if signs.is_unreachable {
                    // No frame has to be lost to find that out.
                    self.pause_longer();
                    self.state = State::Down { since, until: now + self.pause };
                    return None;
                }
                // What came meanwhile is about frames of before.
                self.state = State::Trial { down_since: since, until: now + TRIAL_TIME };
                Some(Event::Trial)
            }
            (State::Down { .. }, _) => None,
            (State::Trial { down_since, .. }, Some(reason)) => {
                self.pause_longer();
                self.state = State::Down { since: down_since, until: now + self.pause };
                Some(Event::Still(reason))
            }
            (State::Trial { down_since, until }, None) if now >= until => {
                self.state = State::Up { since: now };
                self.down_time += now - down_since;
                Some(Event::Up(now - down_since))
            }
            (State::Trial { .. }, None) => None,
        }
    }

    /// Somebody else has its name now: what was known is of no use.
    pub fn start_over(&mut self, now: Instant) {
        self.down_time = self.down_time(now);
        self.state = State::Up { since: now };
        self.pause = PAUSE_MIN;
    }

    /// Its part in the pool.
    #[must_use]
    pub fn part(&self) -> Part {
        match self.state {
            State::Up { .. } => Part::Whole,
            State::Down { .. } => Part::None,
            State::Trial { .. } => Part::Trial,
        }
    }

    /// Whether it was marked down and is not back yet.
    #[must_use]
    pub fn is_down(&self) -> bool {
        !matches!(self.state, State::Up { .. })
    }

    /// How long it was down, all times together.
    #[must_use]
    pub fn down_time(&self, now: Instant) -> Duration {
        match self.state {
            State::Up { .. } => self.down_time,
            State::Down { since, .. } | State::Trial { down_since: since, .. } => {
                self.down_time + (now - since)
            }
        }
    }

    /// How often it was marked down.
    #[must_use]
    pub fn times(&self) -> u32 {
        self.times
    }

    fn pause_longer(&mut self) {
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Signs = Signs { against: None, is_unreachable: false };
    const REFUSED: Signs = Signs { against: Some(Reason::Refused), is_unreachable: false };
    const AWAY: Signs = Signs { against: None, is_unreachable: true };

    /// Looks ten times a second from `from` on, with what `signs` has for each part; tells what happened when.
    fn follow(
        health: &mut Health,
        start: Instant,
        times: std::ops::Range<u32>,
        signs: impl Fn(Part) -> Signs,
    ) -> Vec<(u32, Event)> {
        times
            .filter_map(|tenth| {
                let now = start + Duration::from_millis(100) * tenth;
                health.look(now, signs(health.part())).map(|event| (tenth, event))
            })
            .collect()
    }

    #[test]
    fn a_sensor_that_refuses_is_tried_after_longer_and_longer_pauses() {
        let start = Instant::now();
        let mut health = Health::new(start);
        let refuses = |part| if part == Part::None { NOTHING } else { REFUSED };
        let events = follow(&mut health, start, 0..1000, refuses);
        let downs: Vec<u32> =
            events.iter().filter_map(|(at, event)| (*event != Event::Trial).then_some(*at)).collect();
        assert_eq!(
            events[..3],
            [(0, Event::Down(Reason::Refused)), (10, Event::Trial), (11, Event::Still(Reason::Refused)),]
        );
        // A tenth of a second after each trial has begun.
        assert_eq!(downs, [0, 11, 32, 73, 154, 315, 616, 917]);
        assert_eq!(health.times(), 1);
        assert!(health.is_down());
        assert_eq!(health.down_time(start + Duration::from_secs(100)), Duration::from_secs(100));
    }

    #[test]
    fn it_is_back_when_a_trial_goes_well() {
        let start = Instant::now();
        let mut health = Health::new(start);
        assert_eq!(follow(&mut health, start, 0..1, |_| REFUSED), [(0, Event::Down(Reason::Refused))]);
        let events = follow(&mut health, start, 1..100, |_| NOTHING);
        assert_eq!(events, [(10, Event::Trial), (25, Event::Up(Duration::from_millis(2500)))]);
        assert_eq!(health.part(), Part::Whole);
        // Soon after, it is the same failure; later, a new one.
        follow(&mut health, start, 100..101, |_| REFUSED);
        follow(&mut health, start, 101..102, |_| NOTHING);
        assert_eq!(follow(&mut health, start, 102..200, |_| NOTHING)[0], (110, Event::Trial));
    }

    #[test]
    fn nothing_is_sent_to_where_nobody_answers() {
        let start = Instant::now();
        let mut health = Health::new(start);
        assert_eq!(follow(&mut health, start, 0..1000, |_| AWAY), [(0, Event::Down(Reason::Unreachable))]);
        assert_eq!(health.part(), Part::None);
        let events = follow(&mut health, start, 1000..2000, |_| NOTHING);
        assert!(matches!(events[..], [(at, Event::Trial), (_, Event::Up(_))] if at < 1300), "{events:?}");
    }

    #[test]
    fn what_comes_late_does_not_prolong_a_pause() {
        let start = Instant::now();
        let mut health = Health::new(start);
        let late = |part| if part == Part::Trial { NOTHING } else { REFUSED };
        assert_eq!(
            follow(&mut health, start, 0..12, late),
            [(0, Event::Down(Reason::Refused)), (10, Event::Trial)]
        );
    }
}

//! The highest rate that a mirror takes without a loss.

use std::time::Duration;

use super::{flat_out::FlatOut, interrupt, place::Place, systems::System, traffic::Traffic};

/// Lower after a loss, as long as no rate has been without one.
const DOWN: f64 = 0.8;
/// Near enough, as a share of the rate.
const NEAR: f64 = 0.01;
/// What may still be under way when the generator stops, as a share of what it sent: more of it, and the
/// mirror was only falling behind.
const BEHIND: f64 = 0.02;
/// A generator that reaches less of its rate has no more to give.
const REACHED: f64 = 0.98;

/// Searches in at most `steps` phases; `None` where every rate it tried had losses. `flat_out` says where to
/// begin.
///
/// # Panics
/// Where the generator or the mirror fails.
#[must_use]
pub fn measure(
    place: &Place,
    system: &'static System,
    traffic: Traffic,
    flat_out: &FlatOut,
    phase: Duration,
    steps: usize,
) -> Option<f64> {
    let active = system.start(place);
    let mut search = Search::new(flat_out.delivered, flat_out.offered, flat_out.lost == 0);
    for _ in 0..steps {
        let Some(rate) = search.next() else { break };
        // Pacing costs the generator a little: at its own pace it goes without.
        let paced = (rate < flat_out.offered).then_some(rate as u64);
        let (reached, is_whole) = step(place, traffic, paced, phase);
        search.tell(rate, reached, is_whole);
    }
    let _ = active.stop();
    search.best()
}

/// Sends at `rate`, or flat out, for the length of `phase`; gives the rate that it was, and whether all was mirrored.
fn step(place: &Place, traffic: Traffic, rate: Option<u64>, phase: Duration) -> (f64, bool) {
    let before = place.sensor.received();
    let generator = place.inject(&traffic.frames(), rate);
    interrupt::sleep(phase);
    generator.halt();
    // Before anything else: what a mirror still has to send when the frames stop tells whether it kept up.
    let then = (place.sensor.received() - before).frames;
    let sent = generator.stop();
    let came = place.sensor.settle(before, sent.frames).frames;
    let behind = sent.frames.saturating_sub(then);
    let is_whole = came == sent.frames && behind as f64 <= BEHIND * sent.frames as f64;
    (sent.frames as f64 / sent.time.as_secs_f64(), is_whole)
}

/// Bisection between a rate without losses and one with.
#[derive(Debug)]
struct Search {
    best: Option<f64>,
    /// Without losses only below this.
    ceiling: f64,
    next: f64,
}

impl Search {
    /// `delivered` of `offered` frames a second arrived, when no more could be sent.
    fn new(delivered: f64, offered: f64, is_lossless: bool) -> Self {
        // Where nothing was lost it is tried again: then at the generator's own pace.
        let next = if is_lossless { offered } else { delivered.min(offered) };
        Self { best: None, ceiling: offered * 1.01, next }
    }

    /// The rate to try, until it is near enough.
    fn next(&self) -> Option<f64> {
        let near = self.best.is_some_and(|best| self.ceiling - best <= NEAR * self.ceiling);
        (!near && self.next >= 1.0).then_some(self.next)
    }

    fn tell(&mut self, rate: f64, reached: f64, is_whole: bool) {
        if is_whole {
            self.best = Some(self.best.map_or(reached, |best| best.max(reached)));
            if reached < REACHED * rate {
                self.ceiling = reached;
            }
        } else {
            self.ceiling = self.ceiling.min(rate);
        }
        self.next = match self.best {
            Some(best) => f64::midpoint(best, self.ceiling),
            None => self.ceiling * DOWN,
        };
    }

    fn best(&self) -> Option<f64> {
        self.best
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Searches a mirror that loses above `limit`, beside a generator that reaches `top`.
    fn search(delivered: f64, limit: f64, top: f64) -> (Option<f64>, usize) {
        let mut search = Search::new(delivered, top, delivered >= top);
        let mut steps = 0;
        while let Some(rate) = search.next() {
            steps += 1;
            assert!(steps <= 40, "{search:?}");
            let reached = rate.min(top);
            search.tell(rate, reached, reached <= limit);
        }
        (search.best(), steps)
    }

    #[test]
    fn limit_is_found() {
        for (delivered, limit) in [(2.0e6, 1.9e6), (2.0e6, 2.1e6), (1.0e6, 0.3e6), (2.9e6, 2.95e6)] {
            let (best, steps) = search(delivered, limit, 3.0e6);
            let best = best.unwrap_or_default();
            assert!(best <= limit && best > limit * 0.98, "{best} of {limit}");
            assert!(steps <= 12, "{steps}");
        }
    }

    #[test]
    fn mirror_without_losses_takes_what_there_is() {
        let (best, steps) = search(1.1e6, f64::INFINITY, 1.1e6);
        assert!(best.is_some_and(|best| best >= 1.09e6));
        assert!(steps <= 2, "{steps}");
    }

    #[test]
    fn mirror_that_always_loses_has_none() {
        let mut search = Search::new(1_000.0, 2_000.0, false);
        for _ in 0..40 {
            let Some(rate) = search.next() else { break };
            search.tell(rate, rate, false);
        }
        assert_eq!(search.best(), None);
    }
}

//! Which flows are taken whole under `--max-rate`, and which as far as the rate allows.
//!
//! What flows of each rank ask for is measured, the refused ones too: so it is known at once how many ranks fit, and
//! nothing has to be tried. The thresholds stay where they are as long as they do their work: a flow that is taken goes
//! on being taken, and one that is refused is not taken for a moment. They move down as soon as flows that are taken
//! whole need more than there is, and up when a good part of the rate is left over.

use mirror_common::budget::{Grade, Plan, RANKS, Unit};

/// Parts of the rate that flows are to need that are taken whole: what they need varies, and what is above the rate
/// for longer than the bucket lasts is thinned.
const WHOLE: f64 = 0.90;
/// When they need more, the threshold goes down.
const WHOLE_MAX: f64 = 0.96;
/// When they need less, it goes up, if there is a flow that fits.
const WHOLE_MIN: f64 = 0.75;

/// When they need less, no part of the bucket is kept for them.
const WHOLE_FEW: f64 = 0.3;

/// A rank that needs more than this part of the rate is one of a large flow, or has so many flows that it is far behind:
/// it does not keep others from being taken that fit.
const HEAVY: f64 = 0.1;

/// Parts of the rate that all flows are to need that are taken at least in part: enough that nothing is left over
/// when they need less for a moment.
const ALL: f64 = 1.2;
/// Outside of these parts of that, others are taken in part.
const ALL_MIN: f64 = 0.9;
const ALL_MAX: f64 = 1.5;

/// When less of the rate is used than this, though there are flows that are refused, more are taken in part.
const USED_MIN: f64 = 0.97;
/// When more is, fewer are.
const USED: f64 = 0.99;
/// By how much in a period, and at most.
const WIDEN: f64 = 1.02;
const NARROW: f64 = 0.995;
const WIDENESS_MAX: f64 = 8.0;
/// The weight of a period in what is used.
const USE_GAIN: f64 = 1.0 / 64.0;

/// A change by so much of the rate is no chance.
const CHANGE: f64 = 0.3;

/// The same in standard deviations, of as many frames as there were. Frames of 1,500 bytes come less evenly than
/// others of the same rate.
const DEVIATIONS: f64 = 4.0;
const FRAME: f64 = 1500.0;

/// Most periods that are averaged over, and those when needs shrink.
const AVERAGED: f64 = 32.0;
const AVERAGED_SHRINKING: f64 = 5.0;

/// What passed since the beginning, in bytes or frames.
#[derive(Clone, Copy, Debug, Default)]
pub struct Passed {
    /// In all.
    pub all: u64,
    /// Of that, what was [`mirror_common::budget::Grade::End`].
    pub ends: u64,
}

/// Looks at what is asked for, period by period.
#[derive(Debug)]
pub struct Controller {
    /// Bytes or frames a second that there are.
    rate: f64,
    unit: Unit,
    /// What was asked for up to the last look.
    totals: Box<[u64; RANKS]>,
    passed_total: Passed,
    /// In the last period, and how long that was.
    latest: Box<[u64; RANKS]>,
    latest_s: f64,
    /// On average.
    average: Box<[f64; RANKS]>,
    ends: f64,
    passed: f64,
    /// By how much more flows are taken in part, since those that are come in bursts with long gaps between.
    wideness: f64,
    /// Periods that the average is over.
    periods: f64,
    grades: Box<[Grade; RANKS]>,
    /// The same, as they are told.
    told: Box<[Grade; RANKS]>,
}

impl Controller {
    /// Takes every flow at first.
    #[must_use]
    pub fn new(plan: &Plan, unit: Unit) -> Self {
        Self {
            rate: plan.rate as f64,
            unit,
            totals: Box::new([0; RANKS]),
            passed_total: Passed::default(),
            latest: Box::new([0; RANKS]),
            latest_s: 0.0,
            average: Box::new([0.0; RANKS]),
            ends: 0.0,
            passed: plan.rate as f64,
            wideness: 1.0,
            periods: 0.0,
            grades: Box::new([Grade::Whole; RANKS]),
            told: Box::new([Grade::Whole; RANKS]),
        }
    }

    /// How flows of each rank are treated now.
    #[must_use]
    pub fn grades(&self) -> &[Grade; RANKS] {
        &self.told
    }

    /// Says how flows of each rank are treated from now on. `totals` is what flows of each rank have asked for since the beginning;
    /// `seconds` is the time since the last look.
    pub fn look(&mut self, totals: &[u64; RANKS], passed: Passed, seconds: f64) -> &[Grade; RANKS] {
        let (before, before_s) = (self.latest.clone(), self.latest_s);
        for (rank, (&now, last)) in totals.iter().zip(self.totals.iter_mut()).enumerate() {
            self.latest[rank] = now.wrapping_sub(*last);
            *last = now;
        }
        self.latest_s = seconds;
        let ends = passed.ends.wrapping_sub(self.passed_total.ends) as f64 / seconds;
        let all = passed.all.wrapping_sub(self.passed_total.all) as f64 / seconds;
        self.passed_total = passed;
        self.passed += (all - self.passed) * USE_GAIN;

        // Of the flows that matter now.
        let on_average = self.needed(|grade| grade != Grade::Refused);
        let sum = |of: &[u64; RANKS]| {
            let taken = of.iter().zip(self.grades.iter()).filter(|(_, grade)| **grade != Grade::Refused);
            taken.map(|(units, _)| *units).sum::<u64>() as f64
        };
        let (now, then) = (sum(&self.latest) / seconds, sum(&before) / before_s.max(f64::MIN_POSITIVE));
        let quantum = if self.unit == Unit::Bytes { FRAME } else { 1.0 };
        let deviation = (on_average.max(now) * quantum / seconds).sqrt();
        let change = (self.rate * CHANGE).max(deviation * DEVIATIONS);
        // One period is no change: a host that was busy elsewhere makes up for it in a burst, which the bucket takes.
        let has_grown = now.min(then) > on_average + change;
        if has_grown {
            // All at once, or flows would be thinned for as long as the average takes to follow.
            self.periods = 1.0;
            self.passed = self.rate;
            for (average, (now, then)) in self.average.iter_mut().zip(self.latest.iter().zip(before.iter())) {
                *average = (now + then) as f64 / (seconds + before_s);
            }
        } else {
            if now.max(then) < on_average - change {
                self.periods = self.periods.min(AVERAGED_SHRINKING - 1.0);
            }
            self.periods = (self.periods + 1.0).min(AVERAGED);
            for (average, latest) in self.average.iter_mut().zip(self.latest.iter()) {
                *average += (*latest as f64 / seconds - *average) / self.periods;
            }
        }
        let gain = 1.0 / self.periods;
        self.ends += (ends - self.ends) * gain;
        self.decide();
        // Where hardly a flow is whole, the others may have the whole bucket: large ones, which come in bursts.
        let spares = self.needed(|grade| grade == Grade::Whole) >= (self.rate - self.ends) * WHOLE_FEW;
        for (told, grade) in self.told.iter_mut().zip(self.grades.iter()) {
            *told = if spares || *grade != Grade::Marginal { *grade } else { Grade::Whole };
        }
        &self.told
    }

    fn decide(&mut self) {
        let rate = self.rate - self.ends;
        let whole = self.needed(|grade| grade == Grade::Whole);
        let is_all = self.grades.iter().all(|grade| *grade == Grade::Whole);
        let is_new = if whole > rate * WHOLE_MAX {
            self.choose_whole(rate, false);
            true
        } else {
            !is_all && whole < rate * WHOLE_MIN && self.choose_whole(rate, true)
        };
        if self.grades.iter().all(|grade| *grade == Grade::Whole) {
            self.wideness = 1.0;
            return;
        }
        if self.passed < self.rate * USED_MIN {
            self.wideness = (self.wideness * WIDEN).min(WIDENESS_MAX);
        } else if self.passed > self.rate * USED {
            self.wideness = (self.wideness * NARROW).max(1.0);
        }
        let all = rate * ALL * self.wideness;
        let taken = self.needed(|grade| grade != Grade::Refused);
        if is_new || !(all * ALL_MIN..all * ALL_MAX).contains(&taken) {
            self.choose_marginal(rate, all);
        }
    }

    /// What flows of some grades need on average.
    fn needed(&self, of: impl Fn(Grade) -> bool) -> f64 {
        self.average
            .iter()
            .zip(self.grades.iter())
            .filter(|(_, grade)| of(**grade))
            .map(|(need, _)| need)
            .sum()
    }

    /// Chooses ranks whose flows are taken whole, in their order: of those that are, where these need too much; of the
    /// others in addition, where `adds`. Returns whether anything has changed.
    fn choose_whole(&mut self, rate: f64, adds: bool) -> bool {
        let mut sum = self.needed(|grade| adds && grade == Grade::Whole);
        let (mut is_full, mut has_changed) = (false, false);
        for (grade, need) in self.grades.iter_mut().zip(self.average.iter()) {
            if (*grade == Grade::Whole) == adds {
                continue;
            }
            let fits = !is_full && sum + need <= rate * WHOLE;
            if fits {
                sum += need;
            } else if *need <= rate * HEAVY {
                // Those that follow stay behind, but for what does not fit for its own size.
                is_full = true;
            }
            if fits == adds {
                *grade = if adds { Grade::Whole } else { Grade::Refused };
                has_changed = true;
            }
        }
        has_changed
    }

    /// Chooses ranks whose flows are taken in part, so that all that are taken need at least `all`: in their order, the
    /// heavy ones last.
    fn choose_marginal(&mut self, rate: f64, all: f64) {
        let mut sum = self.needed(|grade| grade == Grade::Whole);
        for grade in self.grades.iter_mut().filter(|grade| **grade == Grade::Marginal) {
            *grade = Grade::Refused;
        }
        for takes_heavy in [false, true] {
            for (grade, need) in self.grades.iter_mut().zip(self.average.iter()) {
                if *grade != Grade::Refused || (*need > rate * HEAVY) != takes_heavy {
                    continue;
                }
                if sum >= all {
                    return;
                }
                sum += need;
                *grade = Grade::Marginal;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use mirror_common::{
        budget::{Bucket, COST, rank},
        sample::{Purpose, key},
    };

    use super::*;

    const PERIOD: f64 = 0.01;
    /// 100 Mbit/s
    const RATE: u64 = 12_500_000;

    /// A load of flows, and what of each passes.
    struct Load {
        plan: Plan,
        controller: Controller,
        bucket: Bucket,
        totals: Box<[u64; RANKS]>,
        passed: Passed,
        now: u64,
        random: u64,
    }

    impl Load {
        fn new(rate: u64) -> Self {
            let plan = Plan::new(rate, Unit::Bytes, 1);
            Self {
                plan,
                controller: Controller::new(&plan, Unit::Bytes),
                bucket: Bucket::default(),
                totals: Box::new([0; RANKS]),
                passed: Passed::default(),
                now: 1 << 50,
                random: 1,
            }
        }

        /// Frames of 1,000 bytes, of `flows` in random order, as many as make `rate` bytes a second. Returns what each
        /// flow asked for and what it got.
        fn run(&mut self, flows: &[u32], rate: u64, periods: u32) -> Vec<(u64, u64)> {
            let mut got = vec![(0, 0); flows.len()];
            let frames = rate / 100 / 1000;
            for _ in 0..periods {
                for _ in 0..frames {
                    self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let flow = (self.random >> 33) as usize % flows.len();
                    self.now += 10_000_000 / frames;
                    let rank = rank(flows[flow], key(0, Purpose::Rank));
                    self.totals[rank as usize] += 1000;
                    got[flow].0 += 1000;
                    let grade = self.controller.grades()[rank as usize];
                    let passes = grade != Grade::Refused
                        && self.bucket.claim(&self.plan, grade, self.now, 1000 * COST);
                    if passes {
                        got[flow].1 += 1000;
                        self.passed.all += 1000;
                    }
                }
                self.controller.look(&self.totals, self.passed, PERIOD);
            }
            got
        }
    }

    impl Load {
        /// Ranks whose flows are taken whole.
        fn whole(&self) -> usize {
            self.controller.grades.iter().filter(|grade| **grade == Grade::Whole).count()
        }
    }

    fn share_of(got: &[(u64, u64)], rate: u64, periods: u32) -> f64 {
        got.iter().map(|(_, got)| *got).sum::<u64>() as f64 / (rate as f64 * f64::from(periods) * PERIOD)
    }

    /// Flows of which all, nothing, and a part was taken.
    fn outcome(got: &[(u64, u64)]) -> (usize, usize, usize) {
        let whole = got.iter().filter(|(asked, got)| asked == got).count();
        let refused = got.iter().filter(|(_, got)| *got == 0).count();
        (whole, refused, got.len() - whole - refused)
    }

    #[test]
    fn many_flows_are_whole_or_refused_and_the_rate_is_used() {
        let flows: Vec<u32> = (0..10_000_u32).map(|flow| flow.wrapping_mul(0x9e37_79b9)).collect();
        let mut load = Load::new(RATE);
        load.run(&flows, 20 * RATE, 6);
        let settled = load.whole();
        let got = load.run(&flows, 20 * RATE, 200);
        let share = share_of(&got, RATE, 200);
        assert!((0.975..=1.0).contains(&share), "{share}");
        let (whole, refused, partly) = outcome(&got);
        assert!(whole > 350 && refused > 9_200 && partly < 350, "{whole} {refused} {partly}");
        let moved = load.whole().abs_diff(settled);
        assert!(moved < 12, "{settled} {}", load.whole());
    }

    #[test]
    fn a_burst_moves_nothing() {
        let flows: Vec<u32> = (0..10_000_u32).map(|flow| flow.wrapping_mul(0x9e37_79b9)).collect();
        let mut load = Load::new(RATE);
        load.run(&flows, 20 * RATE, 40);
        let before = load.whole();
        for _ in 0..5 {
            // Ten milliseconds with nothing, and then as much as in twenty.
            load.now += 10_000_000;
            load.controller.look(&load.totals, load.passed, PERIOD);
            load.run(&flows, 40 * RATE, 1);
            load.run(&flows, 20 * RATE, 10);
            let moved = load.whole().abs_diff(before);
            assert!(moved <= 3, "{before} {}", load.whole());
        }
    }

    #[test]
    fn below_the_rate_everything_passes() {
        let flows: Vec<u32> = (0..100_u32).map(|flow| flow.wrapping_mul(0x9e37_79b9)).collect();
        let mut load = Load::new(RATE);
        let got = load.run(&flows, RATE / 10 * 9, 200);
        assert_eq!(outcome(&got), (100, 0, 0));
    }

    #[test]
    fn few_large_flows_stay_as_they_are() {
        let flows: Vec<u32> = (0..10_u32).map(|flow| flow.wrapping_mul(0x9e37_79b9)).collect();
        let mut load = Load::new(RATE);
        // Ten flows of a third of the rate each: two whole, and the third has what they leave.
        load.run(&flows, RATE / 3 * 10, 10);
        let before = load.whole();
        let got = load.run(&flows, RATE / 3 * 10, 300);
        let share = share_of(&got, RATE, 300);
        assert!((0.97..=1.0).contains(&share), "{share}");
        let (whole, refused, partly) = outcome(&got);
        assert!(whole == 2 && refused >= 6 && partly <= 2, "{whole} {refused} {partly}: {got:?}");
        assert_eq!(load.whole(), before);
    }

    /// Wherever it is in the order.
    #[test]
    fn a_large_flow_does_not_keep_small_ones_out() {
        for seed in 0..8_u32 {
            let mut flows: Vec<u32> =
                (0..300_u32).map(|flow| (flow + 300 * seed).wrapping_mul(0x9e37_79b9)).collect();
            // Eight tenths of the rate for 300 flows, and five times the rate for one.
            let large = flows[0];
            flows.extend(std::iter::repeat_n(large, 300 * 50 / 8));
            let load_rate = RATE / 10 * 8 * flows.len() as u64 / 300;
            let mut load = Load::new(RATE);
            load.run(&flows, load_rate, 20);
            let got = load.run(&flows, load_rate, 100);
            let share = share_of(&got, RATE, 100);
            assert!((0.97..=1.0).contains(&share), "{share}");
            let (whole, ..) = outcome(&got[1..300]);
            assert!(whole >= 285, "{whole} of 299 small flows are whole with {seed}");
        }
    }

    #[test]
    fn large_flows_that_come_in_bursts_use_the_rate() {
        let mut load = Load::new(RATE);
        let flows: Vec<u32> = (0..4_u32).map(|flow| flow.wrapping_mul(0x9e37_79b9)).collect();
        // Each sends for ten milliseconds, at twelve times the rate, and then the others do.
        let run = |load: &mut Load, periods: usize| {
            let mut passed = 0;
            for period in 0..periods {
                let got = load.run(&flows[period % 4..][..1], 12 * RATE, 1);
                passed += got[0].1;
            }
            passed as f64 / (RATE as f64 * periods as f64 * PERIOD)
        };
        run(&mut load, 200);
        let share = run(&mut load, 400);
        assert!((0.9..=1.0).contains(&share), "{share}");
    }

    #[test]
    fn a_load_that_comes_and_goes_is_followed() {
        let flows: Vec<u32> = (0..10_000_u32).map(|flow| flow.wrapping_mul(0x9e37_79b9)).collect();
        let mut load = Load::new(RATE);
        load.run(&flows, RATE / 2, 100);
        assert_eq!(load.whole(), RANKS);
        load.run(&flows, 20 * RATE, 3);
        let share = share_of(&load.run(&flows, 20 * RATE, 20), RATE, 20);
        assert!((0.95..1.02).contains(&share), "after 30 ms: {share}");
        // A tenth of the load: ten times as many flows.
        load.run(&flows, 2 * RATE, 30);
        let got = load.run(&flows, 2 * RATE, 100);
        let share = share_of(&got, RATE, 100);
        assert!((0.97..=1.0).contains(&share), "after 300 ms: {share}");
        let (whole, ..) = outcome(&got);
        assert!(whole > 3_500, "{whole}");
        load.run(&flows, RATE / 2, 30);
        let got = load.run(&flows, RATE / 2, 10);
        assert!(got.iter().all(|(asked, got)| asked == got), "all of it fits again");
    }
}

//! Which frames are mirrored: one flow in so many, and within a budget. The kernel programs decide by themselves; a
//! replay asks here, by the same numbers.

pub mod controller;
pub mod rate;
pub mod steward;

use mirror_common::{
    budget::{Bucket, COST, Grade, Plan, RANKS, Unit, rank},
    headers::Headers,
    sample::{Purpose, draw, greatest_draw, key},
    settings::{self, halves},
};

use self::{
    controller::{Controller, Passed},
    rate::Rate,
};

/// `--sample`, `--sample-seed`, `--max-rate` and what belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Select {
    /// One flow in so many.
    pub sample: u32,
    /// Which ones.
    pub seed: u64,
    /// Most of what is mirrored.
    pub max_rate: Option<Rate>,
    /// Whether nothing at all passes of flows that the rate has no room for.
    pub is_strict: bool,
}

impl Select {
    /// What the kernel programs are told, which run on `cpus` processors.
    #[must_use]
    pub fn settings(&self, cpus: usize) -> settings::Select {
        let plan = self.max_rate.map(|rate| (rate, Plan::new(rate.per_second, rate.unit, cpus as u64)));
        settings::Select {
            greatest_draw: greatest_draw(self.sample),
            sample_key: halves(key(self.seed, Purpose::Sample)),
            unit: plan.map_or(0, |(rate, _)| rate.unit as u32),
            passes_ends: u32::from(!self.is_strict),
            rank_key: halves(key(self.seed, Purpose::Rank)),
            rate: halves(plan.map_or(0, |(_, plan)| plan.rate)),
            depth: halves(plan.map_or(0, |(_, plan)| plan.depth)),
            batch: halves(plan.map_or(0, |(_, plan)| plan.batch)),
        }
    }

    /// What a replay asks; nothing where everything is mirrored.
    #[must_use]
    pub fn selector(&self) -> Option<Selector> {
        let budget = self.max_rate.map(|rate| {
            let plan = Plan::new(rate.per_second, rate.unit, 1);
            Budget {
                plan,
                unit: rate.unit,
                passes_ends: !self.is_strict,
                key: key(self.seed, Purpose::Rank),
                bucket: Bucket::default(),
                controller: Controller::new(&plan, rate.unit),
                demand: Box::new([0; RANKS]),
                passed: Passed::default(),
                looked_ns: None,
            }
        });
        if self.sample <= 1 && budget.is_none() {
            return None;
        }
        Some(Selector {
            greatest_draw: greatest_draw(self.sample),
            key: key(self.seed, Purpose::Sample),
            budget,
        })
    }
}

/// Between two looks at what is asked for.
pub const PERIOD_NS: u64 = 10_000_000;

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// It is mirrored.
    Taken,
    /// Its flow is left out by sampling.
    SampledOut,
    /// The budget has no room.
    RateLimited,
}

/// Chooses frames of a replay.
#[derive(Debug)]
pub struct Selector {
    greatest_draw: u32,
    key: u64,
    budget: Option<Budget>,
}

impl Selector {
    /// Whether the time matters.
    #[must_use]
    pub fn needs_time(&self) -> bool {
        self.budget.is_some()
    }

    /// What becomes of `frame`, which had `wire_len` bytes and is played at `now_ns`.
    pub fn choose(&mut self, flow_hash: u32, frame: &[u8], wire_len: u32, now_ns: u64) -> Choice {
        if draw(flow_hash, self.key) > self.greatest_draw {
            return Choice::SampledOut;
        }
        let Some(budget) = &mut self.budget else { return Choice::Taken };
        if budget.has_room(flow_hash, frame, wire_len, now_ns) { Choice::Taken } else { Choice::RateLimited }
    }
}

/// `--max-rate` for one thread.
#[derive(Debug)]
struct Budget {
    plan: Plan,
    unit: Unit,
    passes_ends: bool,
    key: u64,
    bucket: Bucket,
    controller: Controller,
    demand: Box<[u64; RANKS]>,
    passed: Passed,
    looked_ns: Option<u64>,
}

impl Budget {
    fn has_room(&mut self, flow_hash: u32, frame: &[u8], wire_len: u32, now_ns: u64) -> bool {
        // The bucket's clock is not to begin at 0.
        let now_ns = now_ns.saturating_add(1 << 40);
        let elapsed = now_ns.saturating_sub(*self.looked_ns.get_or_insert(now_ns));
        if elapsed >= PERIOD_NS {
            self.looked_ns = Some(now_ns);
            self.controller.look(&self.demand, self.passed, elapsed as f64 / 1e9);
        }
        let units = if self.unit == Unit::Bytes { u64::from(wire_len) } else { 1 };
        let rank = rank(flow_hash, self.key);
        self.demand[rank as usize] += units;
        let grade = self.controller.grades()[rank as usize];
        if self.bucket.claim(&self.plan, grade, now_ns, units * COST) {
            self.passed.all += units;
            return true;
        }
        if !self.passes_ends || !Headers::of(frame).begins_or_ends(frame) {
            return false;
        }
        let passes = self.bucket.claim(&self.plan, Grade::End, now_ns, units * COST);
        if passes {
            self.passed.all += units;
            self.passed.ends += units;
        }
        passes
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use mirror_common::flow;

    use super::*;

    const SYN: u8 = 2;
    const ACK: u8 = 16;

    fn frame(connection: u16, flags: u8, fragment: u16) -> Vec<u8> {
        let [a, b] = connection.to_be_bytes();
        let [c, d] = fragment.to_be_bytes();
        let mut frame = vec![0; 12];
        frame.extend([8, 0, 0x45, 0, 0, 86, 0, 0, c, d, 64, 6, 0, 0, 10, 0, a, b, 10, 9, 0, 1]);
        frame.extend([9, 9, 0, 80, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0, 0, 0, 0, 0, 0]);
        frame.resize(100, 0);
        frame
    }

    fn selector(is_strict: bool) -> Selector {
        // 1,000 frames of 100 bytes a second.
        let max_rate = Some("800kbit".parse().unwrap());
        Select { sample: 1, seed: 0, max_rate, is_strict }.selector().unwrap()
    }

    /// Plays frames of 2,000 connections for three seconds, 40,000 a second. Returns how many passed of each connection
    /// with these flags in the last second.
    fn play(selector: &mut Selector, flags: impl Fn(u64) -> u8) -> [u64; 2] {
        let mut passed = [0; 2];
        for number in 0..120_000_u64 {
            let flags = flags(number);
            let frame = frame((number % 2_000) as u16, flags, 0);
            let hash = flow::hash(&Headers::of(&frame[..]));
            let choice = selector.choose(hash, &frame, 100, number * 25_000);
            assert_ne!(choice, Choice::SampledOut);
            if choice == Choice::Taken && number >= 80_000 {
                passed[usize::from(flags & SYN != 0)] += 1;
            }
        }
        passed
    }

    #[test]
    fn a_flood_of_beginnings_takes_no_more_than_its_part() {
        // All but a tenth of all frames.
        let flags = |number: u64| if number / 2_000 % 10 == 9 { ACK } else { SYN };
        let passed = play(&mut selector(false), flags);
        assert!((950..=1_000).contains(&passed.iter().sum::<u64>()), "{passed:?}");
        let strict = play(&mut selector(true), flags);
        assert!((900..=1_000).contains(&strict.iter().sum::<u64>()), "{strict:?}");
    }

    #[test]
    fn beginnings_of_refused_connections_pass_unless_that_is_strict() {
        // Fewer than their part allows: 30 of 40,000 a second.
        let flags = |number: u64| if number.is_multiple_of(1_333) { SYN } else { ACK };
        let passed = play(&mut selector(false), flags);
        assert!(passed[1] >= 28, "{passed:?}");
        let strict = play(&mut selector(true), flags);
        assert!(strict[1] <= 5, "{strict:?}");
    }

    #[test]
    fn only_segments_of_tcp_begin_or_end_connections() {
        let begins = |frame: &[u8]| Headers::of(frame).begins_or_ends(frame);
        for (flags, expected) in
            [(SYN, true), (SYN | ACK, true), (1 | ACK, true), (4, true), (ACK, false), (8, false)]
        {
            assert_eq!(begins(&frame(7, flags, 0)), expected, "{flags}");
        }
        assert!(!begins(&frame(7, SYN, 0x2000)), "a fragment");
        assert!(!begins(&frame(7, SYN, 0)[..40]), "cut off");
        let mut udp = frame(7, SYN, 0);
        udp[23] = 17;
        assert!(!begins(&udp));
    }
}

//! A budget for what is mirrored: whole flows are left out before all of them are thinned.
//!
//! Every flow has a [`rank`], and every rank a [`Grade`]: its flows are taken whole, or with what those leave, or not at
//! all. User space sets the grades by what flows of each rank ask for ([`Demand`]), in the order of the ranks. A
//! [`Bucket`] sees to it that the rate is kept whatever they are.

use crate::sample::draw;

/// Ranks of flows, from 0 on. Each 32 of them have twice as many flows as the 32 before, so that the
/// bound between those that are taken and the others is right to a few percent, wherever it is.
pub const RANKS: usize = (EXPONENTS << STEP_BITS) as usize;

/// Ranks within one doubling, as a power of two.
const STEP_BITS: u32 = 5;

/// Doublings: a load of up to 2^16 times the budget.
const EXPONENTS: u32 = 17;

/// What one processor's hooks were asked for since they were loaded.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug)]
pub struct Demand {
    /// By flows of each rank, in the budget's unit.
    pub ranks: [u64; RANKS],
    /// Of these, what passed.
    pub passed: u64,
    /// Of this, beginnings and ends of connections of refused flows.
    pub ends: u64,
    /// 0.
    pub reserved: [u64; 6],
}

/// A flow's rank, below [`RANKS`]: a floating-point number of its draw.
#[inline(always)]
#[must_use]
pub const fn rank(flow_hash: u32, key: u64) -> u32 {
    const LOWEST: u32 = 32 - EXPONENTS;
    // Draws below the lowest doubling share its ranks.
    let draw = draw(flow_hash, key) | 1 << LOWEST;
    let exponent = 31 - draw.leading_zeros();
    let step = draw >> (exponent - STEP_BITS) & ((1 << STEP_BITS) - 1);
    (exponent - LOWEST) << STEP_BITS | step
}

/// How a flow's frames are treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Grade {
    /// As long as there is anything in the bucket.
    Whole = 0,
    /// As long as the bucket is nearly full: with what whole flows leave.
    Marginal = 1,
    /// The beginning or the end of a connection whose other frames are refused: with a small part of the rate.
    End = 2,
    /// Not at all.
    Refused = 3,
}

impl Grade {
    /// That of a rank, as the agent writes it for the kernel programs; in the beginning all are 0.
    #[inline(always)]
    #[must_use]
    pub const fn of_rank(number: u8) -> Self {
        match number {
            0 => Self::Whole,
            1 => Self::Marginal,
            _ => Self::Refused,
        }
    }
}

/// Grades that are paid for.
pub const GRADES: usize = 3;

/// What a rate is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Unit {
    /// Bytes of frames on the mirrored wire.
    Bytes = 1,
    /// Frames on the mirrored wire.
    Frames = 2,
}

/// A nanosecond of a rate of one a second. Credit is counted in this, so that neither a rate nor a time is rounded:
/// one byte, or one frame, costs [`COST`].
pub type Credit = u64;

/// What one byte or one frame costs.
pub const COST: Credit = 1_000_000_000;

/// Greatest rate, in bytes or frames a second: 400 Gbit/s.
pub const RATE_MAX: u64 = 50_000_000_000;

/// A bucket's content, in nanoseconds of its rate.
const DEPTH_NS: u64 = 12_000_000;

/// Thousandth parts of the rate that the bucket is filled with. The rest is what a second may have more that begins
/// with a full bucket: with it no second has more than the rate.
const FILLED: u64 = 985;

/// The least content, in bytes: as many frames as a burst of a flow has.
const DEPTH_BYTES: u64 = 64 << 10;

/// The same in frames.
const DEPTH_FRAMES: u64 = 64;

/// What processors take from the bucket in advance, all together, in nanoseconds of its rate.
const AHEAD_NS: u64 = 1_000_000;

/// The same of one of few processors.
const AHEAD_OF_ONE_NS: u64 = 250_000;

/// The part of rate and bucket that the ends of refused flows may take, at most.
const ENDS: u64 = 16;

/// The part of the bucket that is marginal flows'.
const MARGINAL: u64 = 4;

/// How long a processor that was refused does not ask again.
pub const PAUSE_NS: u64 = 50_000;

/// How a bucket is filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Bytes or frames a second that flow into it. Not 0.
    pub rate: u64,
    /// Most credit in it.
    pub depth: Credit,
    /// Credit that a processor takes at once, unless a frame costs more.
    pub batch: Credit,
}

impl Plan {
    /// For `rate` bytes or frames a second, 1 to [`RATE_MAX`], over `cpus` processors.
    #[must_use]
    pub const fn new(rate: u64, unit: Unit, cpus: u64) -> Self {
        let rate = if rate > RATE_MAX { RATE_MAX } else { rate };
        let least = COST * if matches!(unit, Unit::Bytes) { DEPTH_BYTES } else { DEPTH_FRAMES };
        let depth = if rate * DEPTH_NS > least { rate * DEPTH_NS } else { least };
        let cpus = if cpus == 0 { 1 } else { cpus };
        let ahead = if AHEAD_NS / cpus < AHEAD_OF_ONE_NS { AHEAD_NS / cpus } else { AHEAD_OF_ONE_NS };
        // At least 1: nothing is divided by 0.
        let filled = rate / 1000 * FILLED + rate % 1000 * FILLED / 1000;
        Self { rate: if filled == 0 { 1 } else { filled }, depth, batch: rate * ahead }
    }

    /// What a processor asks for that has `held` and needs `cost`, which is more.
    #[inline(always)]
    #[must_use]
    pub const fn wanted(&self, grade: Grade, cost: Credit, held: Credit) -> Credit {
        let batch = if matches!(grade, Grade::End) { self.batch / ENDS } else { self.batch };
        let missing = cost - held;
        if missing > batch { missing } else { batch }
    }
}

/// What may still be sent. One for all processors, which take from it in turn.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    /// Credit, at most [`Plan::depth`]; below 0 where the last frame cost more than there was.
    pub level: i64,
    /// The part of it that is for [`Grade::End`].
    pub ends: i64,
    /// When it was filled last: nanoseconds of the clock that is asked. At 0 it is full at the first look.
    pub since_ns: u64,
}

impl Bucket {
    /// Fills the bucket up to `now_ns`, and takes `wanted` from it where the grade may. What is there need not be
    /// enough: the rest is owed, so that a rate of less than a frame a second is kept too. In the kernel this runs
    /// under a lock, where nothing can be called.
    #[inline(always)]
    pub const fn claim(&mut self, plan: &Plan, grade: Grade, now_ns: u64, wanted: Credit) -> bool {
        // Clocks of two processors may differ by some nanoseconds.
        let elapsed = now_ns.saturating_sub(self.since_ns);
        self.since_ns += elapsed;
        self.level = filled(self.level, plan.depth, plan.rate, elapsed);
        self.ends = filled(self.ends, plan.depth / ENDS, plan.rate / ENDS, elapsed);
        let may = match grade {
            Grade::Whole => self.level > 0,
            Grade::Marginal => self.level > (plan.depth - plan.depth / MARGINAL) as i64,
            Grade::End => self.level > 0 && self.ends > 0,
            Grade::Refused => false,
        };
        if may {
            self.level -= wanted as i64;
            if matches!(grade, Grade::End) {
                self.ends -= wanted as i64;
            }
        }
        may
    }
}

/// `level` after `elapsed` nanoseconds. Nothing overflows: no more time is counted than it takes to fill the bucket.
#[inline(always)]
const fn filled(level: i64, depth: Credit, rate: u64, elapsed: u64) -> i64 {
    let rate = if rate == 0 { 1 } else { rate };
    // Never negative: the level is at most the depth.
    let missing = depth.wrapping_sub(level as u64);
    let enough = match missing.checked_div(rate) {
        Some(time) => time + 1,
        None => 0,
    };
    let gained = rate * if elapsed < enough { elapsed } else { enough };
    level + if gained < missing { gained } else { missing } as i64
}

/// What a processor has taken from the bucket in advance, for one grade.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Credit.
    pub held: Credit,
    /// When it may ask for more: the bucket was empty.
    pub not_before_ns: u64,
}

//! Which flows are mirrored: sampling and the budget's ranks.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::LazyLock;

use mirror_common::{
    budget::{Bucket, COST, Demand, Grade, Plan, RANKS, RATE_MAX, Unit, rank},
    flow,
    headers::Headers,
    sample::{Purpose, draw, greatest_draw, key},
};
use proptest::prelude::*;

/// Hashes as flows have them.
static HASHES: LazyLock<Vec<u32>> = LazyLock::new(|| (0..100_000).map(make_hash).collect());

fn hash(number: u32) -> u32 {
    HASHES[number as usize]
}

fn make_hash(number: u32) -> u32 {
    let [a, b, c, d] = number.to_be_bytes();
    let mut frame = vec![0; 12];
    frame.extend([8, 0, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, a, b, c, 10, 99, 0, 1]);
    frame.extend([200, d, 0, 53, 0, 8, 0, 0]);
    flow::hash(&Headers::of(&frame[..]))
}

fn chosen(n: u32, seed: u64) -> Vec<u32> {
    let (key, greatest) = (key(seed, Purpose::Sample), greatest_draw(n));
    (0..100_000).filter(|&number| draw(hash(number), key) <= greatest).collect()
}

#[test]
fn one_flow_in_n_is_chosen_whatever_the_seed() {
    for seed in [0, 1, 2, 0xdead_beef, u64::MAX] {
        for n in [1, 2, 3, 8, 100] {
            let got = chosen(n, seed).len() as f64;
            let share = 1.0 / f64::from(n);
            let expected = 1e5 * share;
            let deviation = (expected * (1.0 - share)).sqrt();
            assert!((got - expected).abs() <= 4.0 * deviation, "1/{n} by {seed}: {got} of {expected}");
        }
    }
    assert_eq!(
        [0, 1, 2, 8, u32::MAX].map(greatest_draw),
        [u32::MAX, u32::MAX, (1 << 31) - 1, (1 << 29) - 1, 0]
    );
}

#[test]
fn seeds_choose_apart_from_each_other() {
    let first = chosen(8, 0);
    for seed in [1, 2, 3, 1 << 40] {
        let both = chosen(8, seed).iter().filter(|number| first.binary_search(number).is_ok()).count() as f64;
        let expected = 1e5 / 64.0;
        assert!((both - expected).abs() < 5.0 * expected.sqrt(), "{both} of {expected} with {seed}");
    }
}

#[test]
fn fewer_flows_are_some_of_more() {
    let mut more = chosen(1, 7);
    for n in [2, 3, 5, 8, 16, 1000] {
        let fewer = chosen(n, 7);
        assert!(fewer.iter().all(|number| more.binary_search(number).is_ok()), "1/{n}");
        more = fewer;
    }
}

/// The chosen flows are spread over rings and source ports as all are, and so are the ranks of the chosen ones.
#[test]
fn choice_says_nothing_of_way_and_rank() {
    let chosen = chosen(8, 0);
    let rank_key = key(0, Purpose::Rank);
    for rings in [2, 3, 4] {
        let mut counts = vec![0_u32; rings as usize];
        chosen.iter().for_each(|&number| counts[flow::ring(hash(number), rings) as usize] += 1);
        let expected = chosen.len() as f64 / f64::from(rings);
        let spread = counts.iter().all(|&count| (f64::from(count) - expected).abs() < 5.0 * expected.sqrt());
        assert!(spread, "{counts:?}");
    }
    let ports: std::collections::HashSet<_> =
        chosen.iter().map(|&number| flow::source_port(hash(number))).collect();
    // 12,500 balls into 16,384 boxes: 8,740 are not empty.
    assert!((8_500..9_000).contains(&ports.len()), "{} source ports", ports.len());
    let upper = chosen.iter().filter(|&&number| rank(hash(number), rank_key) as usize >= RANKS - 32).count();
    let expected = chosen.len() as f64 / 2.0;
    assert!((upper as f64 - expected).abs() < 5.0 * expected.sqrt(), "{upper} in the upper half");
}

#[test]
fn ranks_are_filled_as_they_should() {
    let mut counts = vec![0_u32; RANKS];
    let key = key(0, Purpose::Rank);
    (0..1_000_000_u32).for_each(|number| counts[rank(number, key) as usize] += 1);
    for (doubling, share) in [(0, 0.5), (1, 0.25), (2, 0.125)] {
        for step in 0..32 {
            let count = f64::from(counts[RANKS - 1 - 32 * doubling - step]);
            let expected = 1e6 * share / 32.0;
            assert!((count - expected).abs() < 5.0 * expected.sqrt(), "{doubling} {step}: {count}");
        }
    }
    assert_eq!(size_of::<Demand>() % 64, 0);
}

#[test]
fn grades_go_into_a_number_and_out() {
    for grade in [Grade::Whole, Grade::Marginal, Grade::Refused] {
        assert_eq!(Grade::of_rank(grade as u8), grade);
    }
    assert_eq!(Grade::Whole as u8, 0, "as a map is in the beginning");
}

/// Bytes that pass in each second of a load that is far too much, with frames of `len` bytes.
fn seconds(rate: u64, len: u64, grade: Grade, start_ns: u64) -> Vec<u64> {
    let plan = Plan::new(rate, Unit::Bytes, 2);
    let mut bucket = Bucket::default();
    let mut passed = vec![0; 3];
    let gap = 1_000_000_000 * len / (rate * 3);
    let mut now = 0;
    while now < 3_000_000_000 {
        if bucket.claim(&plan, grade, start_ns + now, len * COST) {
            passed[(now / 1_000_000_000) as usize] += len;
        }
        now += gap;
    }
    passed
}

#[test]
fn no_second_has_more_than_the_rate_and_none_has_much_less() {
    for rate in [12_500_000, 125_000_000, 1_250_000_000] {
        for grade in [Grade::Whole, Grade::Marginal] {
            for second in seconds(rate, 1514, grade, 1 << 50) {
                assert!(second <= rate && second >= rate / 1000 * 980, "{second} of {rate}, {grade:?}");
            }
        }
    }
}

#[test]
fn ends_have_a_small_part() {
    for second in seconds(12_500_000, 64, Grade::End, 1 << 50) {
        let share = second as f64 / 12_500_000.0;
        assert!((0.055..0.065).contains(&share), "{share}");
    }
}

#[test]
fn marginal_flows_leave_whole_ones_their_part_of_the_bucket() {
    let plan = Plan::new(12_500_000, Unit::Bytes, 2);
    let mut bucket = Bucket::default();
    let take = |bucket: &mut Bucket, grade| {
        let mut bytes = 0;
        while bucket.claim(&plan, grade, 1 << 50, 1_000 * COST) {
            bytes += 1_000;
        }
        bytes
    };
    assert_eq!(take(&mut bucket, Grade::Marginal), 38_000, "a quarter of 150,000");
    assert_eq!(take(&mut bucket, Grade::Marginal), 0);
    assert_eq!(take(&mut bucket, Grade::Whole), 112_000);
    assert_eq!([Grade::Whole, Grade::End].map(|grade| take(&mut bucket, grade)), [0, 0]);
}

#[test]
fn rates_of_less_than_a_frame_a_second_are_kept() {
    let plan = Plan::new(1, Unit::Frames, 2);
    let mut bucket = Bucket::default();
    let passed = (0..10_000_u64)
        .filter(|tenth| bucket.claim(&plan, Grade::Whole, (1 << 50) + tenth * 100_000_000, COST))
        .count();
    // 64 that were in the bucket, and one a second.
    assert!((1_050..1_070).contains(&passed), "{passed}");
}

proptest! {
    /// Whatever is asked for and when, no more passes than flowed in.
    #[test]
    fn no_more_passes_than_flows_in(
        rate in 1..=RATE_MAX,
        asks in proptest::collection::vec((0_u64..20_000_000, 1_u64..70_000, 0_u32..3), 1..500),
    ) {
        let plan = Plan::new(rate, Unit::Bytes, 2);
        let mut bucket = Bucket { since_ns: 5, level: plan.depth as i64, ends: (plan.depth / 16) as i64 };
        let (mut now, mut taken, mut longest) = (5, 0_u128, 0_u128);
        for (gap, len, grade) in asks {
            now += gap;
            let grade = [Grade::Whole, Grade::Marginal, Grade::End][grade as usize];
            if bucket.claim(&plan, grade, now, len * COST) {
                taken += u128::from(len) * u128::from(COST);
                longest = longest.max(u128::from(len) * u128::from(COST));
            }
            let flowed = u128::from(now - 5) * u128::from(plan.rate) + u128::from(plan.depth);
            prop_assert!(taken <= flowed + longest, "{taken} of {flowed}");
            prop_assert!(bucket.level <= plan.depth as i64);
        }
    }

    /// A flow is chosen or not, whichever way its frames go.
    #[test]
    fn both_directions_are_chosen_together(a in any::<u32>(), b in any::<u32>(), p in any::<u16>(), q in any::<u16>()) {
        let of = |source: u32, destination: u32, from: u16, to: u16| {
            let mut frame = vec![0; 12];
            frame.extend([8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0]);
            frame.extend(source.to_be_bytes());
            frame.extend(destination.to_be_bytes());
            frame.extend(from.to_be_bytes());
            frame.extend(to.to_be_bytes());
            frame.extend([0; 16]);
            let hash = flow::hash(&Headers::of(&frame[..]));
            (draw(hash, key(0, Purpose::Sample)), rank(hash, key(0, Purpose::Rank)))
        };
        prop_assert_eq!(of(a, b, p, q), of(b, a, q, p));
    }
}

#[test]
fn shares_vary_from_seed_to_seed_as_chance_does() {
    const SEEDS: u32 = 200;
    for n in [3, 8, 64] {
        let (expected, deviation) =
            (1e4 / f64::from(n), (1e4 / f64::from(n) * (1.0 - 1.0 / f64::from(n))).sqrt());
        let squares = (0..SEEDS).map(|seed| {
            let key = key(u64::from(seed), Purpose::Sample);
            let got =
                (0..10_000).filter(|&number| draw(hash(number), key) <= greatest_draw(n)).count() as f64;
            ((got - expected) / deviation).powi(2)
        });
        // The mean of so many squares is 1, give or take a tenth.
        let variance = squares.sum::<f64>() / f64::from(SEEDS);
        assert!((0.6..1.4).contains(&variance), "1/{n}: {variance}");
    }
}

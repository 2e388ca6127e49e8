//! Shares buckets out among sensors by weighted rendezvous hashing (Thaler, Ravishankar 1998; with weights: Schindelhauer,
//! Schomaker 2005): each sensor draws a lot for each bucket, and the best one has it. The lots depend on the bucket
//! and the sensor's name alone, so that agents agree that never met, the order of sensors means nothing, and one that
//! goes takes only its own buckets along.

use mirror_common::pool::{BUCKETS, DESTINATIONS_MAX, Table};

/// One sensor's lots.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share {
    /// By which it is known, whatever address it has.
    pub key: u64,
    /// How much of all flows it gets, against the others.
    pub weight: u32,
    /// Whether it takes part.
    pub part: Part,
}

/// Of a sensor in the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// It has its share.
    Whole,
    /// It has one in [`TRIAL`] of its buckets, to see whether it is back.
    Trial,
    /// It has none.
    None,
}

/// See [`Part::Trial`].
pub const TRIAL: usize = 16;

/// The key of a sensor that is called `host` and listens at `port`.
#[must_use]
pub fn key(host: &str, port: u16) -> u64 {
    // FNV-1a, which is the same everywhere and for ever.
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x100_0000_01b3;
    let bytes = host.bytes().chain([0]).chain(port.to_be_bytes());
    mix(bytes.fold(OFFSET, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME)))
}

/// The sensor of each bucket, by its number in `shares`, of which there are at most [`DESTINATIONS_MAX`]. Where none
/// takes part, all do: what is lost then is lost with an error, and nothing is held back.
#[must_use]
pub fn table(shares: &[Share]) -> Box<Table> {
    debug_assert!(shares.len() <= DESTINATIONS_MAX);
    let nobody = shares.iter().all(|share| share.part == Part::None);
    let mut table = Box::new(Table { members: 0, buckets: [0; BUCKETS] });
    for (number, share) in shares.iter().enumerate() {
        if nobody || share.part != Part::None {
            table.members |= 1 << number;
        }
    }
    for (bucket, sensor) in table.buckets.iter_mut().enumerate() {
        let on_trial = bucket % TRIAL == 0;
        let takes_part = |share: &Share| match share.part {
            Part::Whole => true,
            Part::Trial => on_trial,
            Part::None => false,
        };
        let winner = best(shares, bucket, takes_part)
            // A trial is all there is.
            .or_else(|| best(shares, bucket, |share| share.part != Part::None))
            .or_else(|| best(shares, bucket, |_| true));
        *sensor = winner.unwrap_or(0) as u8;
    }
    table
}

/// The number of the share with the best lot for a bucket. Where two are alike, the key decides.
fn best(shares: &[Share], bucket: usize, takes_part: impl Fn(&Share) -> bool) -> Option<usize> {
    let all = shares.iter().enumerate().filter(|(_, share)| takes_part(share));
    all.map(|(number, share)| (lot(share, bucket), share.key, number))
        .max_by(|one, other| one.0.total_cmp(&other.0).then(one.1.cmp(&other.1)))
        .map(|(_, _, number)| number)
}

/// Below 0: the logarithm of a number between 0 and 1 to the power of one by the weight, so that the chance to have
/// the best lot is the weight's part of all weights.
fn lot(share: &Share, bucket: usize) -> f64 {
    const STEPS: f64 = (1_u64 << 53) as f64;
    let random = mix(share.key ^ mix(bucket as u64)) >> 11;
    ((random as f64 + 0.5) / STEPS).ln() / f64::from(share.weight)
}

/// The finishing step of SplitMix64 (Steele, Lea, Flood 2014).
const fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use mirror_common::pool::bucket;
    use proptest::prelude::*;

    use super::*;

    fn share(name: u32, weight: u32) -> Share {
        Share { key: key(&format!("sensor-{name}.example"), 4789), weight, part: Part::Whole }
    }

    fn pool() -> impl Strategy<Value = Vec<Share>> {
        proptest::collection::btree_map(0_u32..1000, 1_u32..=1000, 2..9)
            .prop_map(|names| names.into_iter().map(|(name, weight)| share(name, weight)).collect())
    }

    /// Keys by bucket: what agents have in common whatever the order of their options.
    fn keys(shares: &[Share]) -> Vec<u64> {
        table(shares).buckets.iter().map(|&number| shares[usize::from(number)].key).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn the_order_of_sensors_means_nothing(shares in pool(), rotation in 1_usize..8) {
            let mut others = shares.clone();
            others.rotate_left(rotation % shares.len());
            prop_assert_eq!(keys(&shares), keys(&others));
        }

        #[test]
        fn one_that_goes_takes_only_its_own_along(shares in pool(), gone in 0_usize..8) {
            let gone = gone % shares.len();
            let before = keys(&shares);
            let mut left = shares.clone();
            left.remove(gone);
            let mut down = shares.clone();
            down[gone].part = Part::None;
            prop_assert_eq!(keys(&left), keys(&down), "down is as good as removed");
            for (before, after) in before.iter().zip(keys(&left)) {
                prop_assert!(*before == after || *before == shares[gone].key);
            }
        }

        #[test]
        fn a_trial_moves_only_a_part_of_its_own(shares in pool(), back in 0_usize..8) {
            let back = back % shares.len();
            let mut on_trial = shares.clone();
            on_trial[back].part = Part::Trial;
            let mut down = shares.clone();
            down[back].part = Part::None;
            let all = keys(&shares).into_iter().zip(keys(&on_trial)).zip(keys(&down));
            for (bucket, ((whole, trial), none)) in all.enumerate() {
                prop_assert_eq!(trial, if bucket % TRIAL == 0 { whole } else { none });
            }
        }

        #[test]
        fn weights_are_honoured(shares in pool()) {
            let total: u32 = shares.iter().map(|share| share.weight).sum();
            let table = table(&shares);
            for (number, share) in shares.iter().enumerate() {
                let has = table.buckets.iter().filter(|&&has| usize::from(has) == number).count();
                let ideal = f64::from(share.weight) / f64::from(total);
                let off = has as f64 / BUCKETS as f64 - ideal;
                // Five standard deviations.
                prop_assert!(off.abs() <= 5.0 * (ideal * (1.0 - ideal) / BUCKETS as f64).sqrt(), "{off} of {ideal}");
            }
        }
    }

    #[test]
    fn all_are_tried_where_none_is_left() {
        let shares = [share(1, 1), share(2, 1), share(3, 1)];
        let part = |part| shares.map(|share| Share { part, ..share });
        assert_eq!(table(&part(Part::None)), table(&shares));
        assert_eq!(table(&part(Part::Trial)).buckets, table(&shares).buckets);
        assert_eq!(table(&part(Part::None)).members, 0b111);
        let mut one = part(Part::None);
        one[1].part = Part::Whole;
        assert_eq!(*table(&one), Table { members: 0b10, buckets: [1; BUCKETS] });
    }

    #[test]
    fn ten_thousand_flows_spread_evenly_whatever_ring_and_port_they_have() {
        let shares: Vec<Share> = (1..=4).map(|name| share(name, 1)).collect();
        let table = table(&shares);
        let mut random = 1_u64;
        let mut hash = || {
            random = mix(random);
            random as u32
        };
        let hashes: Vec<u32> = (0..10_000).map(|_| hash()).collect();
        let spread = |hashes: &mut dyn Iterator<Item = u32>| {
            let mut counts = [0_f64; 4];
            hashes.for_each(|hash| counts[usize::from(table.buckets[bucket(hash)])] += 1.0);
            let all: f64 = counts.iter().sum();
            counts.map(|count| count * 4.0 / all)
        };
        let all = spread(&mut hashes.iter().copied());
        assert!(all.iter().all(|share| (0.9..1.1).contains(share)), "{all:?}");
        // One ring of four; and one source port in all, which only the upper bits of a hash differ in.
        let ring = spread(&mut hashes.iter().copied().filter(|hash| hash % 4 == 1));
        assert!(ring.iter().all(|share| (0.85..1.15).contains(share)), "{ring:?}");
        let port = spread(&mut hashes.iter().map(|hash| hash & !0x3fff | 7));
        assert!(port.iter().all(|share| (0.9..1.1).contains(share)), "{port:?}");
    }

    #[test]
    fn keys_are_the_same_for_ever() {
        assert_eq!(key("10.0.0.2", 4789), key("10.0.0.2", 4789));
        assert_ne!(key("10.0.0.2", 4789), key("10.0.0.2", 4790));
        assert_ne!(key("10.0.0.2", 4789), key("10.0.0.3", 4789));
        // What other versions of the agent say: a pool of both must agree.
        assert_eq!(key("10.0.0.2", 4789), KEY, "{:#x}", key("10.0.0.2", 4789));
        let shares: Vec<Share> = [2, 3, 4]
            .map(|host| Share { key: key(&format!("10.0.0.{host}"), 4789), weight: 1, part: Part::Whole })
            .into();
        assert_eq!(table(&shares).buckets[..16], FIRST);
    }

    const KEY: u64 = 0x5eb0d4dd8ea5292d;
    const FIRST: [u8; 16] = [2, 0, 1, 1, 1, 0, 2, 0, 1, 0, 2, 0, 0, 0, 0, 2];
}

//! From rounds to one figure each.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    latency::Ends,
    results::{Answers, AnswersRound, Frames, Ratios, Round, Stream, StreamRound},
    systems::{MIRRED, System},
    traffic::Traffic,
};

/// What was measured, by system and traffic, a value for each round.
pub type Rounds<K, V> = Vec<(K, Vec<V>)>;

/// The medians of each system and traffic, and how they compare to mirred's.
#[must_use]
pub fn frames(measured: Rounds<(Traffic, &'static System), Round>) -> Vec<Frames> {
    let medians: Vec<_> = measured.iter().map(|(key, rounds)| (*key, median_round(rounds))).collect();
    measured
        .into_iter()
        .zip(&medians)
        .map(|(((traffic, system), rounds), (_, median))| {
            let mirred =
                medians.iter().find(|((other, system), _)| *other == traffic && system.name == MIRRED);
            let to_mirred = mirred.filter(|_| !system.is_nothing()).map(|(_, mirred)| Ratios {
                delivered: ratio(median.delivered, mirred.delivered),
                loss_free: ratio(median.loss_free, mirred.loss_free),
                cost_us: ratio(median.cost_us, mirred.cost_us),
            });
            Frames { system, traffic, median: median.clone(), to_mirred, rounds }
        })
        .collect()
}

/// The medians of each system with iperf3.
#[must_use]
pub fn streams(measured: Rounds<&'static System, StreamRound>) -> Vec<Stream> {
    measured
        .into_iter()
        .map(|(system, rounds)| {
            let of = |get: fn(&StreamRound) -> Option<f64>| median(rounds.iter().filter_map(get));
            let median = StreamRound {
                bits: of(|round| Some(round.bits)).unwrap_or_default(),
                kept: of(|round| round.kept),
                retransmits: of(|round| Some(round.retransmits)).unwrap_or_default(),
                arrived: of(|round| round.arrived),
                lost_by: median_losses(rounds.iter().map(|round| &round.lost_by)),
            };
            Stream { system, median, rounds }
        })
        .collect()
}

/// The medians of each system with requests and answers.
#[must_use]
pub fn answers(measured: Rounds<(Ends, &'static System), AnswersRound>) -> Vec<Answers> {
    measured
        .into_iter()
        .map(|((ends, system), rounds)| {
            let of = |get: fn(&AnswersRound) -> Option<f64>| median(rounds.iter().filter_map(get));
            let median = AnswersRound {
                p50_us: of(|round| Some(round.p50_us)).unwrap_or_default(),
                p99_us: of(|round| Some(round.p99_us)).unwrap_or_default(),
                added_p50_us: of(|round| round.added_p50_us),
                added_p99_us: of(|round| round.added_p99_us),
                arrived: of(|round| round.arrived),
            };
            Answers { system, ends, median, rounds }
        })
        .collect()
}

fn median_round(rounds: &[Round]) -> Round {
    let of = |get: fn(&Round) -> Option<f64>| median(rounds.iter().filter_map(get));
    Round {
        offered: of(|round| Some(round.offered)).unwrap_or_default(),
        delivered: of(|round| round.delivered),
        bits: of(|round| round.bits),
        lost: of(|round| round.lost),
        lost_by: median_losses(rounds.iter().map(|round| &round.lost_by)),
        // A round without any such rate counts as 0, not as one less round; so it may be the middle one.
        loss_free: median(rounds.iter().map(|round| round.loss_free.unwrap_or_default()))
            .filter(|rate| *rate > 0.0),
        cost_us: of(|round| round.cost_us),
    }
}

/// Of each name the median share; a round without it counts as 0.
fn median_losses<'a>(
    rounds: impl Iterator<Item = &'a BTreeMap<String, f64>> + Clone,
) -> BTreeMap<String, f64> {
    let names: BTreeSet<&String> = rounds.clone().flat_map(BTreeMap::keys).collect();
    names
        .into_iter()
        .filter_map(|name| {
            let shares = rounds.clone().map(|losses| losses.get(name).copied().unwrap_or_default());
            Some((name.clone(), median(shares)?)).filter(|(_, share)| *share > 0.0)
        })
        .collect()
}

/// The middle one, or the mean of the two in the middle.
fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let (upper, lower) = (values.get(values.len() / 2)?, values.get(values.len().checked_sub(1)? / 2)?);
    Some(f64::midpoint(*upper, *lower))
}

/// `None` where a figure is missing, or the one to compare with is too near to 0 to divide by.
fn ratio(ours: Option<f64>, theirs: Option<f64>) -> Option<f64> {
    let theirs = theirs.filter(|theirs| *theirs > 1e-3)?;
    Some(ours? / theirs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::systems::SYSTEMS;

    fn round(delivered: f64, loss_free: Option<f64>, ring_full: f64) -> Round {
        let lost_by = (ring_full > 0.0).then(|| ("ring_full".to_owned(), ring_full)).into_iter().collect();
        Round { delivered: Some(delivered), loss_free, lost_by, ..Round::default() }
    }

    #[test]
    fn medians_of_odd_and_even_counts() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), Some(2.5));
        assert_eq!(median(std::iter::empty()), None);
    }

    #[test]
    fn each_figure_is_its_own_median_beside_that_of_mirred() {
        let mirred = SYSTEMS.iter().find(|system| system.name == MIRRED).unwrap();
        let measured = vec![
            ((Traffic::Small, mirred), vec![round(1.0, Some(1.0), 0.0); 3]),
            (
                (Traffic::Small, &SYSTEMS[2]),
                vec![round(3.0, None, 0.2), round(2.0, Some(4.0), 0.0), round(9.0, Some(3.0), 0.1)],
            ),
            ((Traffic::Large, &SYSTEMS[2]), vec![round(3.0, None, 0.0)]),
        ];
        let frames = frames(measured);
        assert_eq!(frames[1].median.delivered, Some(3.0));
        assert_eq!(frames[1].median.loss_free, Some(3.0));
        assert_eq!(frames[1].median.lost_by["ring_full"], 0.1);
        assert_eq!(frames[1].to_mirred.and_then(|ratios| ratios.delivered), Some(3.0));
        assert_eq!(frames[1].to_mirred.and_then(|ratios| ratios.cost_us), None);
        assert_eq!(frames[2].median.loss_free, None);
        let rare = [round(1.0, None, 0.0), round(1.0, Some(1.0), 0.0), round(1.0, None, 0.0)];
        assert_eq!(median_round(&rare).loss_free, None, "most rounds had none");
        assert!(frames[2].to_mirred.is_none(), "no mirred with this traffic");
    }
}

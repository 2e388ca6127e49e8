//! The results, as they are written in JSON.
//!
//! `schema` is 1; it counts up when a key changes its meaning or goes. Rates are per second, times are
//! microseconds, shares are between 0 and 1. What was not measured, or cannot be said, is `null`. A figure
//! beside `rounds` is the median of theirs.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{latency::Ends, systems::System, traffic::Traffic};

/// One run of the benchmark.
#[derive(Debug, Serialize)]
pub struct Results {
    pub schema: u32,
    pub machine: Machine,
    pub settings: Settings,
    /// What was left out, and why.
    pub skipped: Vec<Skipped>,
    /// Each system with each traffic of the generator, in the order of the traffic.
    pub frames: Vec<Frames>,
    /// Each system with iperf3.
    pub tcp: Vec<Stream>,
    /// Each system with requests and answers, in the order of where the ends are.
    pub latency: Vec<Answers>,
}

/// Where it ran.
#[derive(Debug, Serialize)]
pub struct Machine {
    pub kernel: String,
    pub processor: String,
    pub processors: usize,
    /// The load average of a minute before the run: more than 0.3 or so, and the figures are of a busy machine.
    pub load: f64,
}

/// How it ran.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Settings {
    pub rounds: usize,
    pub phase_s: f64,
    /// Phases of a search for the highest rate without a loss.
    pub steps: usize,
}

/// A system or traffic that was left out.
#[derive(Debug, Serialize)]
pub struct Skipped {
    pub name: &'static str,
    pub reason: String,
}

/// A system with a traffic of the generator.
#[derive(Debug, Serialize)]
pub struct Frames {
    pub system: &'static System,
    pub traffic: Traffic,
    #[serde(flatten)]
    pub median: Round,
    /// Beside `mirred` in the same run: each figure divided by its. 'delivered' and 'loss_free' above 1 and
    /// 'cost_us' below are better than it.
    pub to_mirred: Option<Ratios>,
    pub rounds: Vec<Round>,
}

/// The figures of a round.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Round {
    /// Frames a second that the generator sent flat out.
    pub offered: f64,
    /// Of these, frames a second that reached the sensor; `null` of 'nothing', as all that follows.
    pub delivered: Option<f64>,
    /// Bits a second of these frames, without the headers of the mirror.
    pub bits: Option<f64>,
    /// Share of the frames sent flat out that never reached the sensor.
    pub lost: Option<f64>,
    /// Where they were lost, each as such a share: names of the agent's ledger; `after_send`: the agent had
    /// sent them; `unnamed`: the system does not say.
    pub lost_by: BTreeMap<String, f64>,
    /// The highest rate that was mirrored without a loss.
    pub loss_free: Option<f64>,
    /// By how much a frame of the generator took longer than with 'nothing' in the same round.
    pub cost_us: Option<f64>,
}

/// Figures divided by those of `mirred`.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Ratios {
    pub delivered: Option<f64>,
    pub loss_free: Option<f64>,
    pub cost_us: Option<f64>,
}

/// A system with iperf3.
#[derive(Debug, Serialize)]
pub struct Stream {
    pub system: &'static System,
    #[serde(flatten)]
    pub median: StreamRound,
    pub rounds: Vec<StreamRound>,
}

/// The figures of a round.
#[derive(Debug, Clone, Default, Serialize)]
pub struct StreamRound {
    /// Bits a second of the stream at its receiver.
    pub bits: f64,
    /// The same, as a share of that with 'nothing' in the same round.
    pub kept: Option<f64>,
    /// Segments sent again.
    pub retransmits: f64,
    /// Share of the stream's bytes that reached the sensor.
    pub arrived: Option<f64>,
    /// Shares of the frames that the agent saw and lost, super-frames as one, by its ledger's names.
    pub lost_by: BTreeMap<String, f64>,
}

/// A system with requests and answers.
#[derive(Debug, Serialize)]
pub struct Answers {
    pub system: &'static System,
    pub ends: Ends,
    #[serde(flatten)]
    pub median: AnswersRound,
    pub rounds: Vec<AnswersRound>,
}

/// The figures of a round.
#[derive(Debug, Clone, Default, Serialize)]
pub struct AnswersRound {
    /// Time from a request to its answer that half of them took at most.
    pub p50_us: f64,
    /// The same of 99 % of them.
    pub p99_us: f64,
    /// By how much each is longer than with 'nothing' in the same round.
    pub added_p50_us: Option<f64>,
    pub added_p99_us: Option<f64>,
    /// Share of the requests and answers that reached the sensor.
    pub arrived: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::systems::SYSTEMS;

    #[test]
    fn medians_are_beside_their_rounds() {
        let round = Round { offered: 2.0, ..Round::default() };
        let frames = Frames {
            system: &SYSTEMS[0],
            traffic: Traffic::Small,
            median: round.clone(),
            to_mirred: None,
            rounds: vec![round],
        };
        let json = serde_json::to_value(frames).expect("JSON");
        assert_eq!(json["system"], "nothing");
        assert_eq!(json["traffic"], "64");
        assert_eq!(json["offered"], 2.0);
        assert_eq!(json["rounds"][0]["offered"], 2.0);
        assert!(json["delivered"].is_null());
    }
}

//! What is mirrored.

use clap::ValueEnum;
use serde::Serialize;

use crate::captures::udp_frame;

/// Flows, where there are many.
pub const FLOWS: usize = 1_000;
/// The simple mix of sizes that routers are measured with, seven small, four middling and one full frame,
/// without the checksum of Ethernet.
const MIX: [usize; 12] = [64, 590, 64, 64, 590, 64, 1_514, 64, 590, 64, 590, 64];

/// A kind of traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
pub enum Traffic {
    /// UDP frames of 64 bytes, one flow
    #[value(name = "64")]
    #[serde(rename = "64")]
    Small,
    /// The same of 512 bytes
    #[value(name = "512")]
    #[serde(rename = "512")]
    Middling,
    /// The same of 1400 bytes
    #[value(name = "1400")]
    #[serde(rename = "1400")]
    Large,
    /// Frames of 64, 590 and 1514 bytes, 7 to 4 to 1, over 1,000 flows
    #[value(name = "mix")]
    #[serde(rename = "mix")]
    Mix,
    /// One TCP connection of iperf3, with all offloads on
    #[value(name = "tcp")]
    #[serde(rename = "tcp")]
    Tcp,
    /// Requests and answers of the host's own, one at a time
    #[value(name = "latency")]
    #[serde(rename = "latency")]
    Latency,
}

impl Traffic {
    /// Its name on the command line, in the table, in the results.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Small => "64",
            Self::Middling => "512",
            Self::Large => "1400",
            Self::Mix => "mix",
            Self::Tcp => "tcp",
            Self::Latency => "latency",
        }
    }

    /// Whether `--quick` has it.
    #[must_use]
    pub fn is_quick(self) -> bool {
        matches!(self, Self::Small | Self::Large | Self::Tcp)
    }

    /// The frames that are sent over and over; none for TCP and latency, whose senders are others.
    #[must_use]
    pub fn frames(self) -> Vec<Vec<u8>> {
        let one = |len| vec![udp_frame(0, len)];
        match self {
            Self::Small => one(64),
            Self::Middling => one(512),
            Self::Large => one(1_400),
            // As many as both the flows and the sizes come out even with.
            Self::Mix => flows(FLOWS * MIX.len() / 4, |number| MIX[number % MIX.len()]),
            Self::Tcp | Self::Latency => Vec::new(),
        }
    }
}

/// Frames that take turns through the flows.
fn flows(count: usize, len: impl Fn(usize) -> usize) -> Vec<Vec<u8>> {
    (0..count).map(|number| udp_frame((number % FLOWS) as u16, len(number))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_command_line_and_the_results() {
        for traffic in Traffic::value_variants() {
            assert_eq!(traffic.to_possible_value().expect("none is hidden").get_name(), traffic.name());
            assert_eq!(serde_json::to_value(traffic).expect("JSON"), traffic.name());
        }
    }

    #[test]
    fn mix_has_its_sizes_in_proportion_and_every_flow_alike() {
        let frames = Traffic::Mix.frames();
        let of = |len| frames.iter().filter(|frame| frame.len() == len).count();
        assert_eq!((of(64), of(590), of(1_514)), (1_750, 1_000, 250));
        let of = |flow: u16| frames.iter().filter(|frame| frame[28..30] == flow.to_be_bytes()).count();
        assert_eq!((of(0), of(999), of(1_000)), (3, 3, 0));
    }
}

//! The command line.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Parser, ValueEnum as _};

use super::{
    systems::{SYSTEMS, System},
    traffic::Traffic,
};

/// Measures mirror-agent beside other mirrors, in network namespaces of its own
///
/// For each system and traffic: what it delivers when frames come flat out, the highest rate that it mirrors
/// without a loss, and by how much it slows the receiving processor. Every figure is the median of the rounds.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench", bin_name = "cargo xtask bench", after_help = names())]
pub struct Options {
    /// One round of short phases, and less traffic: under a minute
    #[arg(long)]
    pub quick: bool,
    /// Rounds, each through all systems [default: 5, with --quick 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: Option<u32>,
    /// Only these systems, or this traffic, or both; 'nothing' is always measured
    #[arg(long, value_name = "NAME", num_args = 1.., value_delimiter = ',', value_parser = name)]
    pub only: Vec<String>,
    /// Seconds of each phase [default: 0.4, with --quick 0.15]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub phase: Option<Duration>,
    /// Where to write the results [default: target/bench/bench.json]
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Where to draw them, as SVG [default: target/bench/bench.svg]
    #[arg(long, value_name = "FILE")]
    pub chart: Option<PathBuf>,
}

impl Options {
    /// How many rounds.
    #[must_use]
    pub fn rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.quick { 1 } else { 5 }) as usize
    }

    /// How long the generator sends for one figure.
    #[must_use]
    pub fn phase(&self) -> Duration {
        self.phase.unwrap_or(Duration::from_millis(if self.quick { 150 } else { 400 }))
    }

    /// Phases of one search.
    #[must_use]
    pub fn steps(&self) -> usize {
        if self.quick { 4 } else { 6 }
    }

    /// Who is measured.
    #[must_use]
    pub fn systems(&self) -> Vec<&'static System> {
        let named = |system: &System| self.only.iter().any(|name| *name == system.name);
        let any = SYSTEMS.iter().any(named);
        SYSTEMS
            .iter()
            .filter(|system| system.is_nothing() || (!any && !system.is_by_name()) || named(system))
            .collect()
    }

    /// What is sent.
    #[must_use]
    pub fn traffic(&self) -> Vec<Traffic> {
        let named = |traffic: &Traffic| self.only.iter().any(|name| *name == traffic.name());
        let all = Traffic::value_variants();
        let any = all.iter().any(named);
        all.iter()
            .copied()
            .filter(|traffic| if any { named(traffic) } else { !self.quick || traffic.is_quick() })
            .collect()
    }

    /// Where the results go.
    #[must_use]
    pub fn json(&self) -> PathBuf {
        self.json.clone().unwrap_or_else(|| folder().join("bench.json"))
    }

    /// Where the chart goes.
    #[must_use]
    pub fn chart(&self) -> PathBuf {
        self.chart.clone().unwrap_or_else(|| folder().join("bench.svg"))
    }
}

fn folder() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests).join("target/bench")
}

/// What there is, for people.
fn names() -> String {
    let systems: Vec<_> = SYSTEMS.iter().map(|system| system.name).collect();
    let traffic = Traffic::value_variants().iter().filter_map(clap::ValueEnum::to_possible_value);
    let traffic: Vec<_> = traffic
        .map(|value| format!("  {:<6}{}", value.get_name(), value.get_help().unwrap_or_default()))
        .collect();
    format!("Systems: {}\n\nTraffic:\n{}", systems.join(", "), traffic.join("\n"))
}

fn name(text: &str) -> Result<String, String> {
    let systems = SYSTEMS.iter().map(|system| system.name);
    let names: Vec<_> =
        systems.chain(Traffic::value_variants().iter().map(|traffic| traffic.name())).collect();
    if names.contains(&text) { Ok(text.into()) } else { Err(format!("not one of {}", names.join(", "))) }
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.05..=60.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("must be a number of seconds from 0.05 to 60".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Options {
        Options::parse_from(std::iter::once("bench").chain(line.split_whitespace()))
    }

    #[test]
    fn only_narrows_what_it_names() {
        let options = parse("--only mirred,64 mix");
        assert_eq!(
            options.systems().iter().map(|system| system.name).collect::<Vec<_>>(),
            ["nothing", "mirred"]
        );
        assert_eq!(options.traffic().iter().map(Traffic::name).collect::<Vec<_>>(), ["64", "mix"]);
        let options = parse("--only 64");
        assert_eq!(options.systems(), SYSTEMS[..8].iter().collect::<Vec<_>>());
        assert!(Options::try_parse_from(["bench", "--only", "65"]).is_err());
    }

    #[test]
    fn quick_is_shorter() {
        let (quick, full) = (parse("--quick"), parse(""));
        assert!(quick.rounds() < full.rounds() && quick.phase() < full.phase());
        assert!(quick.traffic().len() < full.traffic().len());
        assert_eq!(quick.systems(), full.systems());
        assert_eq!(parse("--quick --rounds 5 --phase 0.2").rounds(), 5);
    }
}

//! What the tests said in a machine, told apart: lines of init.sh (`== ...`) and of Rust's test harness.

use std::collections::BTreeMap;

/// The results of one path through the kernel, or of the tests that belong to none.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Tests that passed and were neither skipped nor refused.
    pub passed: usize,
    /// The names of those that did not pass.
    pub failed: Vec<String>,
    /// Why the agent refused this path, each reason once.
    pub refused: Vec<String>,
    /// Tests that said that they looked at nothing.
    pub skipped: usize,
}

/// The results of one kernel.
#[derive(Debug, Default, PartialEq)]
pub struct Results {
    /// By path: the module of the tests in tests/tests/kernels.rs. The rest are [`OTHERS`].
    pub paths: BTreeMap<String, Tally>,
    /// What went wrong outside of any test.
    pub broken: Vec<String>,
    /// Seconds that the machine took.
    pub seconds: Option<f64>,
}

/// The binary whose tests are told apart by path.
const BY_PATH: &str = "kernels";
/// The tests of the other binaries.
pub const OTHERS: &str = "other tests";

impl Results {
    /// Reads the whole output of a machine.
    pub fn read(output: &str) -> Self {
        let mut results = Self::default();
        let (mut binary, mut story, mut failures) = ("", "", 0);
        for line in output.lines() {
            if let Some(name) = line.strip_prefix("== binary ") {
                (binary, story, failures) = (name, "", 0);
            } else if let Some(code) = line.strip_prefix("== ended ") {
                // A harness that ended well or with failed tests has said all. What crashes has not.
                if code != "0" && failures == 0 {
                    results.broken.push(format!("the tests of {binary} ended with {code}"));
                }
                binary = "";
            } else if let Some(fault) = line.strip_prefix("== cannot ") {
                results.broken.push(format!("cannot {fault}"));
            } else if let Some(seconds) = line.strip_prefix("== done ") {
                results.seconds = seconds.trim().parse().ok();
            } else if let Some((name, verdict)) =
                line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... "))
            {
                let tally = results.tally(binary, name);
                match verdict {
                    "ok" => tally.passed += 1,
                    // A reason may follow.
                    _ if verdict.starts_with("ignored") => tally.skipped += 1,
                    _ => {
                        tally.failed.push(format!("{binary}: {name}"));
                        failures += 1;
                    }
                }
            } else if let Some(name) =
                line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----"))
            {
                story = name;
            } else if line.starts_with("skipped: ") && !story.is_empty() {
                let tally = results.tally(binary, story);
                (tally.passed, tally.skipped) = (tally.passed.saturating_sub(1), tally.skipped + 1);
                // It is counted once, whatever else it says.
                story = "";
            } else if let Some(reason) = line.strip_prefix("refused: ").filter(|_| !story.is_empty()) {
                let tally = results.tally(binary, story);
                story = "";
                tally.passed = tally.passed.saturating_sub(1);
                if !tally.refused.iter().any(|known| known == reason) {
                    tally.refused.push(reason.to_owned());
                }
            }
        }
        if results.paths.is_empty() {
            results.broken.push("no test ran".to_owned());
        }
        if results.seconds.is_none() {
            results.broken.push("the machine stopped before the tests had ended".to_owned());
        }
        results
    }

    fn tally(&mut self, binary: &str, test: &str) -> &mut Tally {
        let path = test.split_once("::").filter(|_| binary == BY_PATH).map_or(OTHERS, |(path, _)| path);
        self.paths.entry(path.to_owned()).or_default()
    }

    /// Whether nothing is wrong.
    pub fn is_good(&self) -> bool {
        self.broken.is_empty() && self.paths.values().all(|tally| tally.failed.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
== kernel 6.1.0
== binary kernels
running 3 tests
test ring::frames ... ok
test ring::detach ... FAILED
test tcx::frames ... ok

successes:

---- tcx::frames stdout ----
refused: this kernel has no TCX hooks: too old

== ended 101
== binary attach
test one ... ok
test two ... ok
test three ... ignored, for people

---- two stdout ----
skipped: this kernel has no TCX
skipped: nor anything else
== ended 0
== done 12.50
";

    #[test]
    fn results_are_told_apart_by_path() {
        let results = Results::read(OUTPUT);
        assert_eq!(results.seconds, Some(12.5));
        assert!(results.broken.is_empty(), "{results:?}");
        let failed = vec!["kernels: ring::detach".to_owned()];
        assert_eq!(results.paths["ring"], Tally { passed: 1, failed, ..Tally::default() });
        let refused = vec!["this kernel has no TCX hooks: too old".to_owned()];
        assert_eq!(results.paths["tcx"], Tally { refused, ..Tally::default() });
        assert_eq!(results.paths[OTHERS], Tally { passed: 1, skipped: 2, ..Tally::default() });
        assert!(!results.is_good());
    }

    #[test]
    fn what_ends_early_is_no_success() {
        let crashed = Results::read("== binary attach\ntest one ... ok\n== ended 139\n== done 1.00\n");
        assert_eq!(crashed.broken, ["the tests of attach ended with 139"]);
        let stopped = Results::read("== binary attach\ntest one ... ok\n");
        assert_eq!(stopped.broken.len(), 1);
        assert!(!crashed.is_good() && !stopped.is_good());
        assert_eq!(Results::read("== done 1.00\n").broken, ["no test ran"]);
    }
}

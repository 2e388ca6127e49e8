//! The results as people read them.

use std::fmt;

use super::result::{Results, Tally};

/// What a kernel's column has.
pub enum Outcome {
    /// It ran, however the tests went.
    Ran(Results),
    /// It did not.
    NotToBeHad(String),
}

impl Outcome {
    /// Whether everything that was to be shown was.
    pub fn is_good(&self) -> bool {
        matches!(self, Self::Ran(results) if results.is_good())
    }
}

/// Kernels, each with its paths: mode, hook, and the kind of hook where there is a choice.
pub struct Table<'a>(pub &'a [(String, Outcome)]);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = |f: &mut fmt::Formatter<'_>, kernel: &str, path: &str, result: &str| {
            writeln!(f, "{kernel:<26} {path:<18} {result}")
        };
        row(f, "kernel", "path", "result")?;
        for (kernel, outcome) in self.0 {
            match outcome {
                Outcome::NotToBeHad(error) => row(f, kernel, "", &format!("FAILED: {error}"))?,
                Outcome::Ran(results) => {
                    for (path, tally) in &results.paths {
                        row(f, kernel, &path.replace('_', " "), &tally.to_string())?;
                    }
                    for fault in &results.broken {
                        row(f, kernel, "", &format!("FAILED: {fault}"))?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// One cell: the reasons are behind the counts.
impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if !self.failed.is_empty() {
            parts.push(format!("FAILED {}: {}", self.failed.len(), self.failed.join(", ")));
        }
        if self.passed > 0 {
            parts.push(format!("passed {}", self.passed));
        }
        if self.skipped > 0 {
            parts.push(format!("skipped {}", self.skipped));
        }
        parts.extend(self.refused.iter().map(|reason| format!("refused: {reason}")));
        f.write_str(&parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_have_counts_and_reasons() {
        let failed = vec!["kernels: ring::detach".to_owned()];
        let tally = Tally { passed: 3, failed, ..Tally::default() };
        assert_eq!(tally.to_string(), "FAILED 1: kernels: ring::detach, passed 3");
        let tally = Tally { refused: vec!["no TCX hooks".to_owned()], ..Tally::default() };
        assert_eq!(tally.to_string(), "refused: no TCX hooks");
        let tally = Tally { passed: 2, skipped: 1, ..Tally::default() };
        assert_eq!(tally.to_string(), "passed 2, skipped 1");
    }
}

//! `--fix`: runs the commands that are safe.

use std::process::{Command, Stdio};

use serde::Serialize;

use super::report::Report;

/// What was run for one finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Done {
    /// For which check.
    pub check: &'static str,
    /// As they were run, each by `sh -c`.
    pub commands: Vec<String>,
    /// What undoes them.
    pub undo: Vec<String>,
    /// Why the last of them failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Runs the safe commands of a report. Where one of a finding fails, the rest of that finding's are left out.
pub fn apply(report: &Report) -> Vec<Done> {
    let mut all = Vec::new();
    for result in &report.checks {
        for finding in result.findings.iter().filter(|finding| finding.is_safe) {
            let mut done = Done {
                check: result.check.id,
                commands: Vec::new(),
                undo: finding.undo.clone(),
                error: None,
            };
            for command in &finding.fix {
                done.commands.push(command.clone());
                done.error = run(command).err();
                if done.error.is_some() {
                    break;
                }
            }
            all.push(done);
        }
    }
    all
}

fn run(command: &str) -> Result<(), String> {
    let output = Command::new("sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("cannot start sh: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).lines().map(str::trim).collect::<Vec<_>>().join(" ");
    Err(if said.is_empty() { output.status.to_string() } else { said })
}

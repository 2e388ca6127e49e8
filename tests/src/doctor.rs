//! `mirror-agent doctor --json`, its findings, and the commands that it prints.

use std::process::Command;

use serde_json::Value;

use crate::{agent, command, host::Host};

/// What a run of the doctor said.
#[derive(Debug)]
pub struct Diagnosis {
    /// How it ended.
    pub code: i32,
    /// Its report.
    pub json: Value,
}

/// Runs the doctor in `host`.
///
/// # Panics
/// Where it says no JSON.
#[must_use]
pub fn examine(host: &Host, arguments: &str) -> Diagnosis {
    examine_by(&mut agent::command(host, &format!("doctor --json {arguments}")))
}

/// Runs a command that becomes the doctor.
///
/// # Panics
/// As [`examine`].
#[must_use]
pub fn examine_by(doctor: &mut Command) -> Diagnosis {
    let output = command::finish(doctor);
    let json = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("{doctor:?}: {error}: {output:?}");
    });
    Diagnosis { code: output.status.code().expect("a signal"), json }
}

impl Diagnosis {
    /// The findings of a check.
    ///
    /// # Panics
    /// Where it has not run.
    #[must_use]
    pub fn of(&self, check: &str) -> Vec<&Value> {
        let checks = self.json["checks"].as_array().expect("checks");
        let found = checks.iter().find(|one| one["id"] == check);
        let found = found.unwrap_or_else(|| panic!("no {check} in {}", self.json));
        found["findings"].as_array().expect("findings").iter().collect()
    }

    /// The finding of a check that has these words in what it is about and what was found.
    ///
    /// # Panics
    /// Where there is not exactly one.
    #[must_use]
    pub fn finding(&self, check: &str, words: &[&str]) -> &Value {
        let text = |finding: &Value| format!("{} {}", finding["about"], finding["found"]);
        let all = self.of(check);
        let mut matching = all.iter().filter(|finding| words.iter().all(|word| text(finding).contains(word)));
        let found = matching.next().unwrap_or_else(|| panic!("no {words:?} of {check} in {:#}", self.json));
        assert!(matching.next().is_none(), "several {words:?} of {check} in {:#}", self.json);
        found
    }

    /// Checks that a finding is as bad as that, and says why it matters; gives the commands that mend it and those that
    /// undo it.
    ///
    /// # Panics
    /// Where it is not.
    pub fn expect(&self, check: &str, words: &[&str], status: &str) -> (Vec<String>, Vec<String>) {
        let finding = self.finding(check, words);
        assert_eq!(finding["status"], status, "{finding:#}");
        assert!(status == "ok" || finding["why"].as_str().is_some_and(|why| !why.is_empty()), "{finding:#}");
        (commands(&finding["fix"]), commands(&finding["undo"]))
    }

    /// Checks that there is a note with these words, which needs no reason: of what could not be looked at.
    ///
    /// # Panics
    /// Where there is none.
    pub fn expect_without_reason(&self, check: &str, words: &[&str]) {
        let finding = self.finding(check, words);
        assert_eq!(finding["status"], "note", "{finding:#}");
    }

    /// What `--fix` ran for a check, and what undoes it.
    ///
    /// # Panics
    /// Where one failed.
    #[must_use]
    pub fn fixed(&self, check: &str) -> (Vec<String>, Vec<String>) {
        let (mut ran, mut undo) = (Vec::new(), Vec::new());
        for done in self.json["fixed"].as_array().expect("fixed") {
            assert!(done["error"].is_null(), "{done}");
            if done["check"] == check {
                ran.extend(commands(&done["commands"]));
                undo.extend(commands(&done["undo"]));
            }
        }
        (ran, undo)
    }
}

fn commands(list: &Value) -> Vec<String> {
    list.as_array().expect("commands").iter().map(|text| text.as_str().expect("text").to_owned()).collect()
}

/// Pastes commands into a root shell of `host`, as they were printed.
///
/// # Panics
/// Where there are none, or one fails.
pub fn paste(host: &Host, commands: &[String]) {
    assert!(!commands.is_empty(), "nothing to paste");
    for line in commands {
        command::run(host.command("sh").args(["-c", line]));
    }
}

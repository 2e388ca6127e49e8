//! One thing that is looked at.

use anyhow::Result;

use super::{finding::Finding, host::Host};

/// One thing that is looked at: a file of [`super::checks`] has it as a constant.
#[derive(Debug)]
pub struct Check {
    /// Its name in `--only` and in JSON: lower case, words joined by hyphens.
    pub id: &'static str,
    /// What is looked at, for people.
    pub title: &'static str,
    /// Looks. An error stands for 'cannot be looked at', such as a right that is missing: it becomes a note, with the
    /// error's text. No finding at all means that there is nothing to look at.
    pub look: Look<Finding>,
    /// What `--watch` shows of it while it grows.
    pub counters: Option<Look<Counter>>,
}

/// How a host is looked at.
pub type Look<T> = fn(&Host) -> Result<Vec<T>>;

/// A number that only grows, and had better not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counter {
    /// Whose, and which: `eth0 rx_dropped`. The same each time.
    pub name: String,
    /// As it is now.
    pub value: u64,
    /// What its growth means to a mirror.
    pub why: &'static str,
}

//! One thing that a kernel can do, or the reason why it cannot.

use std::fmt;

use anyhow::{Result, bail};

/// One thing that the agent may ask of a kernel, and what a probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ability {
    name: &'static str,
    /// Why the kernel has it not, and what would.
    missing: Option<String>,
}

impl Ability {
    /// What a probe found. `name` is a plural or has no article, as in 'this kernel has no NAME'; `remedy` says
    /// what has it.
    #[must_use]
    pub fn new(name: &'static str, is_there: bool, remedy: &str) -> Self {
        Self { name, missing: (!is_there).then(|| remedy.to_owned()) }
    }

    /// Whether the kernel has it.
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.missing.is_none()
    }

    /// Refuses to go on without it.
    ///
    /// # Errors
    ///
    /// The kernel has it not: one line with the reason.
    pub fn require(&self) -> Result<()> {
        match &self.missing {
            Some(reason) => bail!("this kernel has no {}: {reason}", self.name),
            None => Ok(()),
        }
    }
}

/// A line for people: the name and `yes`, or `no` with the reason.
impl fmt::Display for Ability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.missing {
            Some(reason) => write!(f, "{}: no, {reason}", self.name),
            None => write!(f, "{}: yes", self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn missing_ability_says_why_in_one_line() {
        let ability = Ability::new("TCX hooks", false, "they came with Linux 6.6");
        assert!(!ability.is_there());
        assert_eq!(ability.to_string(), "TCX hooks: no, they came with Linux 6.6");
        let error = ability.require().unwrap_err().to_string();
        assert_eq!(error, "this kernel has no TCX hooks: they came with Linux 6.6");
    }

    #[test]
    fn ability_that_is_there_stands_in_no_way() {
        let ability = Ability::new("TCX hooks", true, "they came with Linux 6.6");
        assert!(ability.is_there());
        assert_eq!(ability.to_string(), "TCX hooks: yes");
        assert!(ability.require().is_ok());
    }
}

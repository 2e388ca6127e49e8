//! Names of interfaces as the user gives them: one name, or a pattern as a shell's.

use std::fmt::{self, Display, Formatter};

use glob::Pattern as Glob;

/// What `--iface` and `--exclude-iface` take. `*` is any text, `?` any byte, `[0-3]` one of these, `[!0-3]` none of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// The interface of this name.
    Name(String),
    /// All that match.
    Wild(Glob),
}

/// Longer patterns are no use: a name has 15 bytes at most.
const LEN_MAX: usize = 255;

impl Pattern {
    /// Takes the value of `option`.
    ///
    /// # Errors
    ///
    /// One line: the option, its value, and what it should be.
    pub fn parse(option: &str, text: &str) -> Result<Self, String> {
        if text.contains(['*', '?', '[']) {
            return wild(text).map_err(|why| format!("{option} {text:?} is no pattern: {why}"));
        }
        // Neither can the kernel's names have (`dev_valid_name` in net/core/dev.c).
        if text.is_empty() || text.len() >= libc::IFNAMSIZ || text.contains(['/', ':', '\0']) {
            return Err(format!("{option} {text:?} cannot be an interface's name: 1 to 15 bytes"));
        }
        Ok(Self::Name(text.into()))
    }

    /// Whether the interface of this name is meant.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        match self {
            Self::Name(own) => own == name,
            Self::Wild(glob) => glob.matches(name),
        }
    }
}

fn wild(text: &str) -> Result<Pattern, String> {
    if text.len() > LEN_MAX {
        return Err(format!("longer than {LEN_MAX} bytes"));
    }
    if text.contains(['/', ':', '\0']) {
        return Err("no interface's name has a slash or a colon".into());
    }
    // To a shell several are as good as one; the crate takes two for folders within folders.
    let mut plain = text.to_string();
    while plain.contains("**") {
        plain = plain.replace("**", "*");
    }
    match Glob::new(&plain) {
        Ok(glob) => Ok(Pattern::Wild(glob)),
        Err(error) => Err(format!("at byte {}: {}", error.pos + 1, error.msg)),
    }
}

impl Display for Pattern {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Name(name) => name,
            Self::Wild(glob) => glob.as_str(),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn matches_as_a_shell_does() {
        for (pattern, yes, no) in [
            ("eth0", &["eth0"][..], &["eth01", "eth", "Eth0"][..]),
            ("veth*", &["veth", "veth0", "veth1a2b3c4"], &["eth0", "xveth0"]),
            ("eth[0-3]", &["eth0", "eth3"], &["eth4", "eth", "eth00"]),
            ("eth[!0-3]", &["eth4", "ethx"], &["eth0"]),
            ("eth?", &["eth0"], &["eth", "eth10"]),
            ("*", &["lo", "eth0", "a.b-c@d"], &[]),
            ("v**h***0", &["veth0", "vh0"], &["veth1"]),
            ("*.[0-9]*", &["eth0.100"], &["eth0"]),
            ("a{b,c}*", &["a{b,c}x"], &["ab"]),
        ] {
            let pattern = Pattern::parse("--iface", pattern).unwrap();
            for name in yes {
                assert!(pattern.matches(name), "{pattern} {name}");
            }
            for name in no {
                assert!(!pattern.matches(name), "{pattern} {name}");
            }
        }
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_value() {
        for (text, word) in [
            ("", "1 to 15 bytes"),
            ("sixteen-letters!", "1 to 15 bytes"),
            ("a/b", "1 to 15 bytes"),
            ("eth[0-3", "at byte 4"),
            ("eth[]*", "at byte 4"),
            ("a/*", "slash"),
        ] {
            let error = Pattern::parse("--iface", text).unwrap_err();
            assert!(error.contains(word) && error.contains(&format!("--iface {text:?}")), "{text}: {error}");
        }
    }
}

//! The value of `--iface`: which interface is meant, and what is particular to it.
//!
//! `NAME_OR_PATTERN[=vni:N]`. No interface of Linux has a colon in its name (`dev_valid_name` in net/core/dev.c), and so it is
//! plain where the name ends, also where that has an equals sign in it.

use mirror_common::vxlan::VNI_MAX;

use crate::pattern::Pattern;

/// One `--iface`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IfaceArg {
    /// Which interfaces it means.
    pub pattern: Pattern,
    /// Network identifier of its frames, 24 bits, where it has one of its own.
    pub vni: Option<u32>,
}

impl IfaceArg {
    /// Takes the value of one `--iface` apart.
    ///
    /// # Errors
    ///
    /// One line: the value, and what it should be.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (name, setting) = match text.split_once(':') {
            None => (text, None),
            Some((before, value)) => match before.rsplit_once('=') {
                Some((name, key)) => (name, Some((key, value))),
                None => (text, None),
            },
        };
        let pattern = Pattern::parse("--iface", name)?;
        let vni = match setting {
            None => None,
            Some(("vni", value)) => Some(vni(value).ok_or_else(|| {
                format!("--iface {text:?}: {value:?} is no network identifier: 0 to {VNI_MAX}")
            })?),
            Some((key, _)) => {
                return Err(format!(
                    "--iface {text:?}: there is no setting {key:?}, only vni, as in eth0=vni:100"
                ));
            }
        };
        Ok(Self { pattern, vni })
    }

    /// The interface's name, where it is one and no pattern.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match &self.pattern {
            Pattern::Name(name) => Some(name),
            Pattern::Wild(_) => None,
        }
    }
}

fn vni(text: &str) -> Option<u32> {
    // `parse` takes a sign.
    let number = text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    (number <= VNI_MAX).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_and_without_a_network() {
        for (text, name, vni) in [
            ("eth0", "eth0", None),
            ("eth0=vni:100", "eth0", Some(100)),
            ("eth0=vni:0", "eth0", Some(0)),
            ("eth0=vni:16777215", "eth0", Some(VNI_MAX)),
            ("a=b", "a=b", None),
            ("a=b=vni:7", "a=b", Some(7)),
        ] {
            assert_eq!(
                IfaceArg::parse(text),
                Ok(IfaceArg { pattern: Pattern::Name(name.into()), vni }),
                "{text}"
            );
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for (text, word) in [
            ("", "1 to 15 bytes"),
            ("=vni:1", "1 to 15 bytes"),
            ("eth0:1", "1 to 15 bytes"),
            ("sixteen-letters!", "1 to 15 bytes"),
            ("a/b", "1 to 15 bytes"),
            ("eth0=vni:16777216", "0 to 16777215"),
            ("eth0=vni:", "0 to 16777215"),
            ("eth0=vni:+1", "0 to 16777215"),
            ("eth0=vni:-1", "0 to 16777215"),
            ("eth0=vni:1:2", "0 to 16777215"),
            ("eth0=mtu:9", "no setting"),
        ] {
            let error = IfaceArg::parse(text).map_err(|error| error.contains(word));
            assert_eq!(error, Err(true), "{text}");
        }
    }
}

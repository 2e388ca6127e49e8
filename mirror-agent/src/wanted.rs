//! Which interfaces are to be mirrored, of those that there are at any time.

use std::fmt::{self, Display, Formatter};

use crate::{iface_arg::IfaceArg, links::Link, pattern::Pattern};

/// All of `--iface` and `--exclude-iface`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// As they were given, each once.
    ifaces: Vec<IfaceArg>,
    excluded: Vec<Pattern>,
}

impl Wanted {
    /// Takes what the user typed.
    ///
    /// # Errors
    ///
    /// One line: the option, its value, and what it should be.
    pub fn new(ifaces: &[String], excluded: &[String]) -> Result<Self, String> {
        let mut all: Vec<IfaceArg> = Vec::new();
        for text in ifaces {
            let iface = IfaceArg::parse(text)?;
            match all.iter_mut().find(|known| known.pattern == iface.pattern) {
                None => all.push(iface),
                Some(known) if known.vni.is_some() && iface.vni.is_some() && known.vni != iface.vni => {
                    return Err(format!("--iface {text:?}: {} has another network already", iface.pattern));
                }
                Some(known) => known.vni = known.vni.or(iface.vni),
            }
        }
        let parse = |text: &String| Pattern::parse("--exclude-iface", text);
        let excluded: Vec<Pattern> = excluded.iter().map(parse).collect::<Result<_, _>>()?;
        for name in all.iter().filter_map(IfaceArg::name) {
            if let Some(exclusion) = excluded.iter().find(|pattern| pattern.matches(name)) {
                return Err(format!(
                    "--iface {name} is left out by --exclude-iface {exclusion}: drop one of the two"
                ));
            }
        }
        Ok(Self { ifaces: all, excluded })
    }

    /// The value that means this interface, where there is one: its own name before any pattern, else the first pattern.
    ///
    /// No pattern means `lo`, whose traffic crosses no wire, nor a device of an agent's own.
    #[must_use]
    pub fn find(&self, link: &Link) -> Option<&IfaceArg> {
        let named = self.ifaces.iter().find(|iface| iface.name() == Some(&link.name));
        if named.is_some() || link.is_loopback || link.is_agents || self.excludes(&link.name) {
            return named;
        }
        self.ifaces.iter().find(|iface| iface.pattern.matches(&link.name))
    }

    fn excludes(&self, name: &str) -> bool {
        self.excluded.iter().any(|pattern| pattern.matches(name))
    }

    /// Whether one of the values is just this name.
    #[must_use]
    pub fn is_named(&self, wanted: &str) -> bool {
        self.names().any(|name| name == wanted)
    }

    /// The values of `--iface`.
    #[must_use]
    pub fn ifaces(&self) -> &[IfaceArg] {
        &self.ifaces
    }

    /// Those that are names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.ifaces.iter().filter_map(IfaceArg::name)
    }
}

impl Display for Wanted {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let all: Vec<_> = self.ifaces.iter().map(|iface| iface.pattern.to_string()).collect();
        f.write_str(&all.join(", "))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn wanted(ifaces: &str, excluded: &str) -> Result<Wanted, String> {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        Wanted::new(&words(ifaces), &words(excluded))
    }

    fn link(name: &str) -> Link {
        Link {
            ifindex: 1,
            name: name.into(),
            is_ethernet: true,
            is_loopback: name == "lo",
            is_agents: name == "mirror0",
            mtu: 1500,
            has_carrier: true,
        }
    }

    #[test]
    fn patterns_and_exclusions() {
        let all = wanted("veth* lo eth0 veth* eth[0-3]", "veth9* eth3").unwrap();
        for name in ["veth0", "lo", "eth0", "eth1"] {
            assert!(all.find(&link(name)).is_some(), "{name}");
        }
        for name in ["veth9", "veth90", "eth3", "eth4", "br0"] {
            assert!(all.find(&link(name)).is_none(), "{name}");
        }
        assert_eq!(all.to_string(), "veth*, lo, eth0, eth[0-3]");
        assert_eq!(all.names().collect::<Vec<_>>(), ["lo", "eth0"]);
    }

    #[test]
    fn no_pattern_means_lo_or_an_agents_own_device() {
        let all = wanted("*", "").unwrap();
        assert!(all.find(&link("eth0")).is_some());
        assert!(all.find(&link("lo")).is_none());
        assert!(all.find(&link("mirror0")).is_none());
        assert!(wanted("lo mirror0", "").unwrap().find(&link("mirror0")).is_some());
    }

    #[test]
    fn a_name_that_is_left_out_is_a_mistake() {
        let error = wanted("eth0 veth*", "e*").unwrap_err();
        assert!(error.contains("--iface eth0") && error.contains("--exclude-iface e*"), "{error}");
        assert!(wanted("veth*", "v*").is_ok());
    }
}

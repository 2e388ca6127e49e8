//! What lets datagrams through this host's packet filter, by the tools that it has.

use std::{env, fs, process::Command};

use serde_json::Value;

use super::finding::Finding;

/// Where packets are filtered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chain {
    /// What comes for this host.
    Input,
    /// What this host sends.
    Output,
}

impl Chain {
    const fn hook(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Output => "output",
        }
    }
}

/// By which the rules are found again.
const COMMENT: &str = "mirror-agent";

/// Adds the commands that let datagrams to a UDP port pass, in front of all other rules, and says where there are any.
#[must_use]
pub fn let_through(finding: Finding, chain: Chain, port: u16, is_v6: bool) -> Finding {
    let chains = nft_chains(chain, is_v6);
    if !chains.is_empty() {
        return chains.into_iter().fold(finding, |mut finding, name| {
            finding.found += &format!(", nftables chain {name}");
            let insert = format!("nft insert rule {name} udp dport {port} accept comment '\"{COMMENT}\"'");
            let delete = format!(
                "nft -a list chain {name} | sed -n 's/.*comment \"{COMMENT}\" # handle //p' | head -n 1 | \
                 xargs nft delete rule {name} handle"
            );
            finding.mend(insert, delete)
        });
    }
    let (tool, tables) = if is_v6 {
        ("ip6tables", "/proc/net/ip6_tables_names")
    } else {
        ("iptables", "/proc/net/ip_tables_names")
    };
    if has(tool) && fs::read_to_string(tables).is_ok_and(|names| names.lines().any(|name| name == "filter")) {
        let rule = format!("{} -p udp --dport {port} -j ACCEPT", chain.hook().to_uppercase());
        return finding.mend(format!("{tool} -I {rule}"), format!("{tool} -D {rule}"));
    }
    finding
}

/// Whether there is a program of this name.
fn has(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    // What a user's shell without them finds as root.
    let extra = ["/usr/sbin", "/sbin"].map(Into::into);
    env::split_paths(&path).chain(extra).any(|folder| folder.join(program).is_file())
}

/// The base chains at a hook, as nft names them: `inet filter output`.
fn nft_chains(chain: Chain, is_v6: bool) -> Vec<String> {
    let output = Command::new("nft").args(["-j", "list", "chains"]).output();
    let Some(output) = output.ok().filter(|output| output.status.success()) else { return Vec::new() };
    let Ok(listing) = serde_json::from_slice::<Value>(&output.stdout) else { return Vec::new() };
    base_chains(&listing, chain, is_v6)
}

fn base_chains(listing: &Value, chain: Chain, is_v6: bool) -> Vec<String> {
    let families: &[&str] = if is_v6 { &["inet", "ip6"] } else { &["inet", "ip"] };
    let objects = listing["nftables"].as_array().into_iter().flatten().map(|object| &object["chain"]);
    objects
        .filter(|object| object["hook"] == chain.hook() && object["type"] == "filter")
        .filter(|object| object["family"].as_str().is_some_and(|family| families.contains(&family)))
        .filter_map(|object| {
            let [family, table, name] = ["family", "table", "name"].map(|key| object[key].as_str());
            Some(format!("{} {} {}", family?, table?, name?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_chains_of_the_hook_and_the_family() {
        let chain = |family: &str, name: &str, hook: &str, kind: &str| serde_json::json!({"chain": {"family": family, "table": "t", "name": name, "hook": hook, "type": kind}});
        let listing = serde_json::json!({"nftables": [
            {"metainfo": {}},
            chain("inet", "a", "output", "filter"),
            chain("ip", "b", "output", "filter"),
            chain("ip6", "c", "output", "filter"),
            chain("ip", "d", "input", "filter"),
            chain("ip", "e", "output", "nat"),
            {"chain": {"family": "ip", "table": "t", "name": "f"}},
        ]});
        assert_eq!(base_chains(&listing, Chain::Output, false), ["inet t a", "ip t b"]);
        assert_eq!(base_chains(&listing, Chain::Output, true), ["inet t a", "ip6 t c"]);
        assert_eq!(base_chains(&listing, Chain::Input, false), ["ip t d"]);
    }
}

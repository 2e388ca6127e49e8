//! Agents that run in this network namespace.

use std::{fs, path::Path};

use clap::{CommandFactory as _, FromArgMatches as _};

use crate::{
    cli::{self, Cli, Hook, MirrorArgs, Mode},
    control::client,
    status::Status,
};

/// A running agent.
#[derive(Debug)]
pub struct Agent {
    /// Its process.
    pub pid: u32,
    /// What it was told on its command line.
    pub args: MirrorArgs,
    /// What it says of itself, where it may be asked.
    pub status: Option<Status>,
}

/// Those that can be seen from here.
pub fn find() -> Vec<Agent> {
    let Ok(own) = fs::read_link("/proc/self/ns/net") else { return Vec::new() };
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut agents: Vec<Agent> = processes.filter_map(|entry| agent(&entry.path(), &own)).collect();
    agents.sort_by_key(|agent| agent.pid);
    agents
}

fn agent(process: &Path, own_namespace: &Path) -> Option<Agent> {
    let pid: u32 = process.file_name()?.to_str()?.parse().ok()?;
    if pid == std::process::id() || fs::read_to_string(process.join("comm")).ok()?.trim() != "mirror-agent" {
        return None;
    }
    if fs::read_link(process.join("ns/net")).ok()? != own_namespace {
        return None;
    }
    let line = fs::read_to_string(process.join("cmdline")).ok()?;
    // What is needed may be in a file, or in variables.
    let words = line.trim_end_matches('\0').split('\0');
    let matches = Cli::command().ignore_errors(true).try_get_matches_from(words).ok()?;
    let cli = Cli::from_arg_matches(&matches).ok()?;
    // A sink is none, nor is another doctor, nor a replay.
    if cli.command.is_some() || !cli.mirror.read.is_empty() {
        return None;
    }
    let status = client::Agent::by_process(pid).status().ok().filter(|status| status.pid == pid);
    Some(Agent { pid, args: cli.mirror, status })
}

impl Agent {
    /// The interfaces that it mirrors, or the patterns that it was given.
    #[must_use]
    pub fn ifaces(&self) -> Vec<String> {
        match &self.status {
            // Those that are gone have no number.
            Some(status) => {
                let present = status.interfaces.iter().filter(|one| one.ifindex != 0);
                present.map(|one| one.name.clone()).collect()
            }
            None => self.args.ifaces.clone(),
        }
    }

    /// Its sensors, as `--dest` takes them.
    #[must_use]
    pub fn dests(&self) -> Vec<String> {
        match &self.status {
            Some(status) => {
                let each = status.destinations.iter().filter(|one| one.transmit != "file");
                each.map(|one| one.name.as_ref().unwrap_or(&one.address).clone()).collect()
            }
            None => self.args.dest.clone(),
        }
    }

    /// Where it encapsulates.
    #[must_use]
    pub fn mode(&self) -> Mode {
        match self.status.as_ref().map(|status| &*status.report.mode) {
            Some("redirect") => Mode::Redirect,
            Some(_) => Mode::Ring,
            None => self.args.mode,
        }
    }

    /// Where its programs sit.
    #[must_use]
    pub fn hook(&self) -> Hook {
        match self.status.as_ref().map(|status| &*status.report.hook) {
            Some("xdp") => Hook::Xdp,
            Some(_) => Hook::Tc,
            None => self.args.hook,
        }
    }

    /// What it sends frames in.
    #[must_use]
    pub fn encap(&self) -> Option<cli::Encap> {
        match self.status.as_ref().map(|status| &*status.report.encap) {
            Some("geneve") => Some(cli::Encap::Geneve),
            Some(_) => Some(cli::Encap::Vxlan),
            None => self.args.encap,
        }
    }
}

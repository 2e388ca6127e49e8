//! Which agent is looked at.

use anyhow::{Result, bail};

use crate::{
    control::client::{Agent, running},
    status::Status,
};

/// What the user named, or found by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Named: this one and no other.
    Named(Agent),
    /// The only one that ran; once it has ended, the only one that comes.
    Found(Agent),
}

impl Target {
    /// The agent.
    #[must_use]
    pub fn agent(&self) -> &Agent {
        let (Self::Named(agent) | Self::Found(agent)) = self;
        agent
    }

    /// After the agent has ended: follows one that has come, where nobody named another.
    pub fn follow_next(&mut self) {
        if let (Self::Found(agent), [next]) = (&mut *self, running().as_slice()) {
            *agent = next.clone();
        }
    }
}

/// Those that run and can be asked, and what they say of themselves.
///
/// # Errors
///
/// There is none: says how to start one. Or none can be asked: says why.
pub fn all() -> Result<Vec<(Agent, Status)>> {
    let agents = running();
    if agents.is_empty() {
        // SAFETY: the call has no preconditions and always succeeds.
        let is_root = unsafe { libc::geteuid() } == 0;
        let rights = if is_root { "" } else { ", or look as root if it runs as another user" };
        bail!(
            "no agent runs here: start one, `mirror-agent --iface eth0`, or name the address that one has with \
             --metrics{rights}"
        );
    }
    let mut answers = Vec::new();
    let mut refusal = None;
    for agent in agents {
        match agent.status() {
            Ok(status) => answers.push((agent, status)),
            Err(error) => refusal = Some(error),
        }
    }
    match refusal {
        Some(error) if answers.is_empty() => Err(error),
        _ => Ok(answers),
    }
}

/// An agent in one line: its process, its interfaces, and where to.
#[must_use]
pub fn line(status: &Status) -> String {
    const NAMED: usize = 4;
    let names: Vec<_> = status.interfaces.iter().map(|interface| interface.name.as_str()).collect();
    let mut interfaces = names[..names.len().min(NAMED)].join(", ");
    if names.len() > NAMED {
        interfaces += &format!(" and {} others", names.len() - NAMED);
    }
    let to: Vec<_> =
        status.destinations.iter().map(|to| to.name.as_ref().unwrap_or(&to.address).as_str()).collect();
    format!("{} ({interfaces} to {})", status.pid, to.join(", "))
}

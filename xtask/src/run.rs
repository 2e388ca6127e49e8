//! Builds the agent and becomes it.

use std::{ffi::OsString, os::unix::process::CommandExt as _};

use anyhow::{Context as _, Result};

use crate::{agent, privilege};

/// Builds the agent and runs it with `args`, as root.
///
/// Returns only on failure: the agent takes this process's place, so that signals reach it directly and
/// its exit code is the caller's.
///
/// # Errors
///
/// Not root with no sudo, or the agent cannot be built or started.
pub fn run(args: &[OsString]) -> Result<()> {
    // Before the build: who cannot run the agent should not wait for it.
    let mut agent = privilege::as_root(agent::path()).context("cannot run mirror-agent")?;
    agent::build()?;
    let error = agent.args(args).exec();
    Err(error).with_context(|| format!("cannot start {}", agent.get_program().display()))
}

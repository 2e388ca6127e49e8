//! Builds the agent.

use std::path::PathBuf;

use anyhow::Result;

use crate::{command, project, setup};

/// Where [`build`] leaves the program.
pub fn path() -> PathBuf {
    project::target().join("release/mirror-agent")
}

/// Builds the agent, optimised, with the kernel programs in it.
///
/// # Errors
///
/// Setup or cargo failed.
pub fn build() -> Result<()> {
    setup::setup()?;
    command::run_before(project::cargo("build").args(["--release", "--package", "mirror-agent"]))
}

//! Running a program as root.

use std::{env, ffi::OsStr, fs, os::unix::fs::MetadataExt as _, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::command;

/// Whether this process is root.
///
/// # Errors
///
/// /proc is not mounted.
pub fn is_root() -> Result<bool> {
    // The kernel gives /proc/self to the effective user: no unsafe call is needed to learn it.
    let owner = fs::metadata("/proc/self").context("cannot read /proc/self: is /proc mounted?")?;
    Ok(owner.uid() == 0)
}

/// A command that runs `program` as root: through sudo when this process is not root.
///
/// # Errors
///
/// This process is not root and there is no sudo.
pub fn as_root(program: impl AsRef<OsStr>) -> Result<Command> {
    let program = program.as_ref();
    if is_root()? {
        return Ok(Command::new(program));
    }
    let Some(sudo) = command::find("sudo") else {
        bail!("not root, and there is no sudo: run this command as root");
    };
    let mut command = Command::new(sudo);
    // MIRROR_* variables configure the agent, and sudo would drop them. Named one by one, and only
    // when set: many a sudoers file refuses to keep any.
    let kept: Vec<_> = env::vars_os()
        .filter_map(|(name, _)| name.into_string().ok())
        .filter(|name| name.starts_with("MIRROR_"))
        .collect();
    if !kept.is_empty() {
        command.arg(format!("--preserve-env={}", kept.join(",")));
    }
    command.arg("--").arg(program);
    Ok(command)
}

//! Builds the agent and the benchmark, and becomes the benchmark.

use std::{ffi::OsString, fs, os::unix::process::CommandExt as _};

use anyhow::{Context as _, Result};

use crate::{agent, command, packages, privilege, project};

/// Builds the agent and the benchmark, and runs the benchmark with `args`, as root.
///
/// Returns only on failure: the benchmark takes this process's place, so that Ctrl-C reaches it directly.
///
/// # Errors
///
/// Not root with no sudo, or something cannot be built or started.
pub fn bench(args: &[OsString]) -> Result<()> {
    let program = project::target().join("release/mirror-bench");
    // Before the build: who cannot run it should not wait for it.
    let mut bench = privilege::as_root("env").context("cannot run the benchmark")?;
    packages::ensure_for_bench()?;
    agent::build()?;
    let mut build = project::cargo("build");
    command::run_before(build.args(["--release", "--package", "mirror-tests", "--bin", "mirror-bench"]))?;
    // The user's own, not root's.
    let folder = project::target().join("bench");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    // Through env, because sudo hands no variables on.
    bench.arg(format!("MIRROR_AGENT={}", agent::path().display())).arg(program).args(args);
    let error = bench.exec();
    Err(error).with_context(|| format!("cannot start {}", bench.get_program().display()))
}

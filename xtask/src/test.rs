//! Runs the tests: those that need nothing, then the end-to-end tests.

use std::{
    ffi::OsString,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::{agent, command, packages, privilege, project, rustc::Rustc, suricata};

/// Builds the agent and runs every test, with `args` for the test binaries.
///
/// A failure in one part does not keep the other from running.
///
/// # Errors
///
/// A test failed, or what the tests need cannot be got.
pub fn test(args: &[OsString]) -> Result<()> {
    let started = Instant::now();
    // Made before the build: who cannot run the tests should not wait for it.
    let parts = [("unit and property tests", unit(args)), ("end-to-end tests", end_to_end(args)?)];
    packages::ensure()?;
    suricata::try_ensure();
    agent::build()?;

    let mut results = Vec::new();
    let mut all_passed = true;
    for (name, mut command) in parts {
        let result = match command::run(&mut command) {
            Ok(took) => format!("{name} passed in {}", seconds(took)),
            Err(error) => {
                all_passed = false;
                format!("{name} FAILED ({error:#})")
            }
        };
        results.push(result);
    }
    let summary = format!("{}; all in {}", results.join(", "), seconds(started.elapsed()));
    if !all_passed {
        bail!("{summary}");
    }
    eprintln!("test: {summary}");
    Ok(())
}

/// Everything but the kernel programs, which have no host build, and the end-to-end tests.
fn unit(args: &[OsString]) -> Command {
    let mut cargo = project::cargo("test");
    cargo
        .args([
            "--workspace",
            "--exclude",
            "mirror-ebpf",
            "--exclude",
            "mirror-tests",
            "--no-fail-fast",
            "--",
        ])
        .args(args);
    cargo
}

/// Optimised, because their traffic generator must keep up with the agent.
fn end_to_end(args: &[OsString]) -> Result<Command> {
    let mut cargo = project::cargo("test");
    cargo
        .args(["--release", "--package", "mirror-tests", "--no-fail-fast", "--"])
        .args(args)
        .env("MIRROR_AGENT", agent::path());
    if !privilege::is_root()? {
        if command::find("sudo").is_none() {
            bail!(
                "cannot run the end-to-end tests: not root, and there is no sudo: run this command as root"
            );
        }
        // Only the tests, so that what cargo builds stays the user's own.
        let triple = Rustc::ask().context("cannot tell the host's triple")?.host;
        let triple = triple.to_uppercase().replace('-', "_");
        cargo.env(format!("CARGO_TARGET_{triple}_RUNNER"), "sudo -E");
    }
    Ok(cargo)
}

fn seconds(duration: Duration) -> String {
    format!("{:.0} s", duration.as_secs_f64())
}

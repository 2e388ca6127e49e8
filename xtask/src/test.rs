//! Runs the tests: those that need nothing, then the end-to-end tests, here and on other kernels.

use std::{
    ffi::OsString,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    agent, command, kernels, kubernetes, packages, privilege, project, prometheus, rustc::Rustc,
    static_agent, suricata,
};

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
    let mut parts = [
        ("unit and property tests", unit(args)),
        ("end-to-end tests", end_to_end(args)?),
        ("tests of ring mode in redirect mode", in_redirect_mode(args)?),
        ("tests of VXLAN with GENEVE", with_geneve(args)?),
    ];
    packages::ensure()?;
    // They wait for a network, which the compiler does not.
    let downloads = thread::spawn(|| {
        suricata::try_ensure();
        prometheus::try_ensure();
        kubernetes::try_ensure();
    });
    agent::build()?;
    // Whatever became of them, they have said.
    let _ = downloads.join();
    if let Some(program) = static_agent::build_for_tests()? {
        for (_, command) in &mut parts {
            command.env("MIRROR_STATIC_AGENT", &program);
        }
    }

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
    // Whoever looks for one test wants it soon.
    if !args.is_empty() {
        eprintln!("test: the tests on other kernels are left out, --kernels runs them");
    } else if !kernels::IS_POSSIBLE {
        eprintln!("test: the tests on other kernels are left out, they run on x86-64 only");
    } else {
        let started = Instant::now();
        results.push(match kernels::test("", true) {
            Ok(()) => format!("tests on other kernels passed in {}", seconds(started.elapsed())),
            Err(error) => {
                all_passed = false;
                format!("tests on other kernels FAILED ({error:#})")
            }
        });
    }
    let summary = format!("{}; all in {}", results.join(", "), seconds(started.elapsed()));
    if !all_passed {
        bail!("{summary}");
    }
    eprintln!("test: {summary}");
    Ok(())
}

/// Runs end-to-end tests on other kernels, with at most one argument: a part of their names.
///
/// # Errors
///
/// As [`kernels::test`], and where the argument is none.
pub fn on_kernels(args: &[OsString]) -> Result<()> {
    let filter = match args {
        [] => Some(""),
        [name] => name.to_str().filter(|name| !name.starts_with('-') && !name.contains(char::is_whitespace)),
        _ => None,
    };
    let filter = filter.context("with --kernels, a part of a test's name is the only argument")?;
    kernels::test(filter, false)
}

/// What to build for the unit and property tests: everything but the kernel programs, which have no host build, and
/// the end-to-end tests.
pub const UNIT: &[&str] = &["--workspace", "--exclude", "mirror-ebpf", "--exclude", "mirror-tests"];

/// What to build for the end-to-end tests. Optimised, because their traffic generator must keep up with the agent.
pub const END_TO_END: &[&str] = &["--release", "--package", "mirror-tests"];

fn unit(args: &[OsString]) -> Command {
    let mut cargo = project::cargo("test");
    cargo.args(UNIT).args(["--no-fail-fast", "--"]).args(args);
    cargo
}

/// Tests that are about ring mode by default, and of which redirect mode promises all, or all but what they name. Not
/// among them: `address` (until netlink has told of another source address, a few milliseconds, frames have the one
/// before), and `order` and `segments_tcp` (order across directions).
const COMMON: &[&str] = &["bad_input", "echo", "hotplug", "interfaces", "segments_kinds", "stop"];

fn in_redirect_mode(args: &[OsString]) -> Result<Command> {
    let mut cargo = tests()?;
    cargo.args(END_TO_END).args(COMMON.iter().flat_map(|name| ["--test", name]));
    cargo.args(["--no-fail-fast", "--"]).args(args).env("MIRROR_TEST_PATH", "--mode redirect");
    Ok(cargo)
}

/// The tests of `segments_kinds` in which the kernel's stack has most to do for the agent, before GENEVE is put in the
/// place of what it made.
const GENEVE: &[&str] = &["crafted_super_frames", "tag_is_in_metadata"];

fn with_geneve(args: &[OsString]) -> Result<Command> {
    let mut cargo = tests()?;
    cargo.args(END_TO_END).args(["--test", "segments_kinds", "--no-fail-fast", "--"]);
    if args.is_empty() {
        cargo.args(GENEVE);
    }
    cargo.args(args).env("MIRROR_TEST_PATH", "--mode redirect --encap geneve");
    Ok(cargo)
}

fn end_to_end(args: &[OsString]) -> Result<Command> {
    let mut cargo = tests()?;
    cargo.args(END_TO_END).args(["--no-fail-fast", "--"]).args(args);
    Ok(cargo)
}

/// Cargo, which runs with root's rights what it builds.
fn tests() -> Result<Command> {
    let mut cargo = project::cargo("test");
    cargo.env("MIRROR_AGENT", agent::path());
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

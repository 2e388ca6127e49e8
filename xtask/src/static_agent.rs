//! Builds the agent as one static file, which runs on any Linux of its architecture: musl is in it as its C library.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{command, libpcap, packages, project, rustc::Rustc, setup};

/// Where [`build`] leaves the program.
pub fn path() -> PathBuf {
    project::target().join("static/mirror-agent")
}

/// Builds it, optimised.
///
/// # Errors
///
/// The target or a C compiler for it cannot be got, or cargo failed.
pub fn build() -> Result<()> {
    let target = prepare()?;
    let mut cargo = cargo(&target);
    // What is shipped to many machines need not have the lines of its sources.
    cargo.arg("--release").env("CARGO_PROFILE_RELEASE_STRIP", "debuginfo");
    command::run_before(&mut cargo)?;
    let built = project::target().join(&target).join("release/mirror-agent");
    let path = path();
    put(&built, &path).with_context(|| format!("cannot put the program to {}", path.display()))
}

/// Builds it for tests, in a third of the time: not optimised, and with the compiler's plugins that the other tests have.
/// `None`, and a word why, where this machine cannot.
///
/// # Errors
///
/// As [`build`].
pub fn build_for_tests() -> Result<Option<PathBuf>> {
    if command::find("musl-gcc").is_none() && command::find("apt-get").is_none() {
        eprintln!("test: the static program is not tested, there is no musl-gcc (Debian's musl-tools)");
        return Ok(None);
    }
    let target = prepare()?;
    command::run_before(cargo(&target).env("CARGO_PROFILE_DEV_DEBUG", "0"))?;
    Ok(Some(project::target().join(&target).join("debug/mirror-agent")))
}

/// Gets what the build needs; returns the target.
fn prepare() -> Result<String> {
    let rustc = Rustc::ask()?;
    let target = target(&rustc)?;
    packages::ensure_for_static()?;
    setup::setup()?;
    add_target(&rustc, &target)?;
    libpcap::ensure_for_musl()?;
    Ok(target)
}

fn cargo(target: &str) -> Command {
    let mut cargo = project::cargo("build");
    cargo.args(["--package", "mirror-agent", "--target", target]);
    cargo
}

/// musl's target for the architecture of this machine.
fn target(rustc: &Rustc) -> Result<String> {
    let architecture = rustc.host.split('-').next().unwrap_or_default();
    if !rustc.host.contains("linux") || !matches!(architecture, "x86_64" | "aarch64") {
        bail!("the static program is built on x86-64 and arm64 Linux, for the same: this is {}", rustc.host);
    }
    Ok(format!("{architecture}-unknown-linux-musl"))
}

fn add_target(rustc: &Rustc, target: &str) -> Result<()> {
    if rustc.sysroot.join("lib/rustlib").join(target).join("lib").is_dir() {
        return Ok(());
    }
    if command::find("rustup").is_none() {
        bail!("the compiler has no standard library for {target}, and there is no rustup to add it");
    }
    eprintln!("setup: adding {target} to {}", rustc.sysroot.display());
    let mut rustup = Command::new("rustup");
    command::run_before(rustup.args(["--quiet", "target", "add", target]).current_dir(project::root()))
        .with_context(|| format!("cannot add {target}"))
}

/// A running program is not written to, but replaced.
fn put(built: &Path, path: &Path) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder)?;
    let new = path.with_extension("new");
    fs::copy(built, &new)?;
    fs::rename(&new, path)
}

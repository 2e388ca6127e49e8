//! Makes a package for Debian and its descendants, by cargo-deb. What is in it, mirror-agent/Cargo.toml says.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

use crate::{agent, command, project};

/// The version that is built where there is none.
const VERSION: &str = "3.8.0";

/// Shells, and what their files of completions are called.
const COMPLETIONS: [(&str, &str); 3] =
    [("bash", "mirror-agent"), ("zsh", "_mirror-agent"), ("fish", "mirror-agent.fish")];

/// Builds the agent and packs it; prints the package's path.
///
/// # Errors
///
/// The agent or cargo-deb cannot be built, or cargo-deb fails.
pub fn build() -> Result<()> {
    let cargo_deb = ensure()?;
    agent::build()?;
    write_assets()?;
    let mut deb = Command::new(cargo_deb);
    deb.args(["--package", "mirror-agent", "--no-build", "--strip", "--output"])
        .arg(folder())
        .current_dir(project::root());
    // As cargo would call it.
    deb.env("CARGO_TARGET_DIR", project::target());
    command::run(&mut deb).map(drop)
}

/// Where packages are left.
fn folder() -> PathBuf {
    project::target().join("deb")
}

/// What the program itself can tell: its manual, and what shells complete.
fn write_assets() -> Result<()> {
    // cargo-deb knows the target folder by no other name.
    let assets = project::target().join("release/deb");
    if assets.exists() {
        fs::remove_dir_all(&assets).with_context(|| format!("cannot remove {}", assets.display()))?;
    }
    let man = assets.join("man");
    command::run(Command::new(agent::path()).arg("man").arg("--dir").arg(&man))?;
    for entry in fs::read_dir(&man).with_context(|| format!("cannot read {}", man.display()))? {
        // Without a time of its own, so that the same sources give the same package.
        command::run(Command::new("gzip").args(["-9", "--no-name"]).arg(entry?.path()))?;
    }
    for (shell, name) in COMPLETIONS {
        let path = assets.join(shell).join(name);
        let text = command::read(Command::new(agent::path()).args(["completions", shell]))?;
        fs::create_dir_all(assets.join(shell))
            .and_then(|()| fs::write(&path, text))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// cargo-deb: the one in target/tools, which is built where it is missing.
fn ensure() -> Result<PathBuf> {
    let tools = project::target().join("tools");
    let own = tools.join("bin/cargo-deb");
    if own.exists() {
        return Ok(own);
    }
    eprintln!("setup: building cargo-deb {VERSION} into target/tools (some minutes)");
    let mut cargo = project::cargo("install");
    cargo.args(["--quiet", "--locked", "--no-default-features", "--version", VERSION, "--root"]).arg(&tools);
    // Built in a temporary folder, not among the project's own files.
    cargo.arg("cargo-deb").env_remove("CARGO_TARGET_DIR");
    command::run_before(&mut cargo).with_context(|| format!("cannot build cargo-deb {VERSION}"))?;
    Ok(own)
}

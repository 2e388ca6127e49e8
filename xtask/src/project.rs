//! Where things are in the checkout, and the cargo that builds it.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

/// The checkout's top folder.
pub fn root() -> &'static Path {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask)
}

/// The folder that holds all that is built.
pub fn target() -> PathBuf {
    root().join("target")
}

/// A cargo command for this workspace.
///
/// `CARGO_TARGET_DIR` is set, whatever the user has there: the agent's place in target/release is part
/// of what `cargo xtask build` promises.
pub fn cargo(subcommand: &str) -> Command {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(cargo);
    command.arg(subcommand).current_dir(root()).env("CARGO_TARGET_DIR", target());
    command
}

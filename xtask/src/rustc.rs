//! What the compiler that builds this project says about itself.

use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

use crate::{command, project};

/// The compiler, as far as the other tools must match it.
pub struct Rustc {
    /// Its own triple, such as `x86_64-unknown-linux-gnu`.
    pub host: String,
    /// The major version of its LLVM.
    pub llvm_major: u32,
    /// Where its libraries are.
    pub sysroot: PathBuf,
}

impl Rustc {
    /// Asks the compiler that rust-toolchain.toml names.
    ///
    /// # Errors
    ///
    /// There is no rustc that runs, or it does not tell its host or its LLVM.
    pub fn ask() -> Result<Self> {
        let about = command::read(rustc().arg("-vV"))?;
        let field = |name: &str| {
            about
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
                .with_context(|| format!("`rustc -vV` names no {name}"))
        };
        let llvm = field("LLVM version")?;
        let sysroot = command::read(rustc().args(["--print", "sysroot"]))?;
        Ok(Self {
            host: field("host")?.to_owned(),
            llvm_major: major(llvm)
                .with_context(|| format!("rustc's LLVM version `{llvm}` does not start with a number"))?,
            sysroot: PathBuf::from(sysroot.trim_end()),
        })
    }
}

/// The first number of a version such as `22.1.2-rust-1.95.0-stable`.
pub fn major(version: &str) -> Option<u32> {
    version.split('.').next()?.parse().ok()
}

fn rustc() -> Command {
    let mut command = Command::new("rustc");
    command.current_dir(project::root());
    command
}

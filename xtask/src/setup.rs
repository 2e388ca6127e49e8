//! Makes a machine ready to build: what the kernel programs need beside the compiler.

use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::{command, libpcap, linker, project, rustc::Rustc};

/// Gets what is missing, and says so in one line for each; prints nothing when all is there.
///
/// # Errors
///
/// Something is missing and cannot be got.
pub fn setup() -> Result<()> {
    let rustc = Rustc::ask()?;
    rust_src(&rustc)?;
    linker::ensure(&rustc)?;
    libpcap::ensure()
}

/// The sources of `core`, which is not shipped for the BPF target and so is built here.
///
/// rust-toolchain.toml lists them, but rustup does not add a listed component to a toolchain that is
/// already there when `RUSTUP_AUTO_INSTALL=0` is set.
fn rust_src(rustc: &Rustc) -> Result<()> {
    let core = rustc.sysroot.join("lib/rustlib/src/rust/library/core");
    if core.is_dir() {
        return Ok(());
    }
    if command::find("rustup").is_none() {
        bail!(
            "the sources of core are missing: {} does not exist, and there is no rustup to add them; \
             install rustup, or this compiler's rust-src package",
            core.display()
        );
    }
    eprintln!("setup: adding rust-src to {}", rustc.sysroot.display());
    command::run_before(
        Command::new("rustup").args(["--quiet", "component", "add", "rust-src"]).current_dir(project::root()),
    )
    .context("cannot add rust-src, the sources of core")
}

//! Formatting and clippy.

use anyhow::Result;

use crate::{command, project, rustc::Rustc, setup};

/// Checks the formatting of all crates and runs clippy on them, with warnings denied.
///
/// # Errors
///
/// There is something to mend, or setup failed.
pub fn lint() -> Result<()> {
    command::run(project::cargo("fmt").args(["--all", "--check"]))?;
    // Clippy runs build scripts, and the agent's builds the kernel programs.
    setup::setup()?;
    command::run(project::cargo("clippy").args(["--all-targets", "--", "-D", "warnings"]))?;
    kernel_programs()
}

/// The kernel programs apart from the rest, as mirror-agent/build.rs has them built: for the BPF target,
/// with a `core` of their own, and with the `cfg` that aya-build sets.
fn kernel_programs() -> Result<()> {
    let host = Rustc::ask()?.host;
    // `riscv64gc` is `riscv64` to BPF, as in aya-build.
    let arch = match host.split('-').next() {
        Some(arch) if arch.starts_with("riscv64") => "riscv64",
        Some(arch) => arch,
        None => &host,
    };
    let target = if cfg!(target_endian = "big") { "bpfeb-unknown-none" } else { "bpfel-unknown-none" };
    let mut cargo = project::cargo("clippy");
    cargo
        .args(["--package", "mirror-ebpf", "--release", "-Z", "build-std=core", "--target", target])
        .args(["--", "-D", "warnings"])
        // `-Z` on a stable cargo.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", format!("--cfg=bpf_target_arch=\"{arch}\""))
        // Apart, because RUSTC_BOOTSTRAP would make cargo build the host's crates anew each time.
        .env("CARGO_TARGET_DIR", project::target().join("lint-ebpf"));
    command::run(&mut cargo)?;
    Ok(())
}

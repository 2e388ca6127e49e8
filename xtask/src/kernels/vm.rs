//! A test machine: a kernel in QEMU, with all its files in memory.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};

use super::{folder, kernel::Kernel};

/// Seconds until a machine is switched off that does not do it itself.
const PATIENCE: &str = "420";
/// Megabytes.
const MEMORY: &str = "1024";

/// What a run left.
pub struct Run {
    /// What init.sh and the tests said.
    pub output: String,
    /// Where that is kept.
    pub path: PathBuf,
    /// What the kernel and QEMU said.
    pub console: String,
}

/// Starts `kernel` with the files of `payload`, and waits until it has switched itself off.
///
/// By software emulation: that works everywhere, and where a /dev/kvm does not work cannot be seen before. One
/// thread for all processors, because QEMU's several crash now and then.
///
/// # Errors
///
/// QEMU cannot be started, or files not be written.
pub fn run(kernel: &Kernel, payload: &[u8]) -> Result<Run> {
    let path = |what: &str| folder().join(format!("{}.{what}", kernel.release));
    let (initrd, output, console) = (path("initrd"), path("log"), path("console"));
    let modules =
        fs::read(&kernel.modules).with_context(|| format!("cannot read {}", kernel.modules.display()))?;
    fs::write(&initrd, [payload, &modules].concat()).with_context(|| cannot_write(&initrd))?;
    for file in [&output, &console] {
        fs::write(file, "").with_context(|| cannot_write(file))?;
    }
    // In the foreground, so that Ctrl-C ends the machine too.
    let mut qemu = Command::new("timeout");
    qemu.args([
        "--foreground",
        PATIENCE,
        "qemu-system-x86_64",
        "-accel",
        "tcg,thread=single",
        "-cpu",
        "max,-cx16",
    ]);
    qemu.args([
        "-machine",
        "q35",
        "-m",
        MEMORY,
        "-smp",
        "2",
        "-nodefaults",
        "-display",
        "none",
        "-no-reboot",
    ]);
    qemu.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(&initrd);
    qemu.args(["-append", "console=ttyS0 panic=-1"]);
    for file in [&console, &output] {
        qemu.arg("-serial").arg(format!("file:{}", file.display()));
    }
    let qemu = qemu.stdin(Stdio::null()).output().context("cannot start QEMU")?;
    fs::remove_file(&initrd).with_context(|| format!("cannot remove {}", initrd.display()))?;
    let read = |path: &Path| fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).replace('\r', ""));
    let mut said = read(&console).context("cannot read what the kernel said")?;
    said.push_str(&String::from_utf8_lossy(&qemu.stderr));
    Ok(Run { output: read(&output).context("cannot read what the tests said")?, path: output, console: said })
}

fn cannot_write(path: &Path) -> String {
    format!("cannot write {}", path.display())
}

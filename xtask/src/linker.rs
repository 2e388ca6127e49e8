//! The bpf-linker that links the kernel programs.
//!
//! It reads the LLVM bitcode that rustc writes, so both need the same LLVM. One that was built for
//! another LLVM fails late and obscurely; hence each candidate is asked which LLVM it has.

use std::{
    fs,
    io::Read as _,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};

use crate::{
    command, project,
    rustc::{self, Rustc},
};

/// The version that is built where no other one fits.
const VERSION: &str = "0.13.0";

/// Sees to it that mirror-agent/build.rs finds a bpf-linker that matches `rustc`: in target/tools/bin,
/// where it looks first, or on the `PATH`.
///
/// # Errors
///
/// There is none, and it cannot be built.
pub fn ensure(rustc: &Rustc) -> Result<()> {
    let own = tools().join("bin/bpf-linker");
    let ready = if own.exists() {
        version(&own).as_deref() == Some(VERSION) && matches(&own, rustc)
    } else {
        command::find("bpf-linker").is_some_and(|found| matches(&found, rustc))
    };
    if ready { Ok(()) } else { install(rustc) }
}

/// The folder of the project's own tools.
fn tools() -> PathBuf {
    project::target().join("tools")
}

/// The version of the bpf-linker at `path`, if it runs.
fn version(path: &Path) -> Option<String> {
    let said = ask(path, &["--version"])?;
    said.trim().strip_prefix("bpf-linker ").map(str::to_owned)
}

/// Whether the bpf-linker at `path` runs and has `rustc`'s LLVM.
///
/// `--version` is silent about LLVM, but LLVM answers for itself when it is handed the same option. It
/// does so before any file is opened; the names of files are there because the command line wants them.
fn matches(path: &Path, rustc: &Rustc) -> bool {
    let said = ask(path, &["--llvm-args=--version", "--output=/dev/null", "/dev/null"]);
    said.as_deref()
        .and_then(|said| said.split_once("LLVM version "))
        .and_then(|(_, version)| rustc::major(version))
        .is_some_and(|major| major == rustc.llvm_major)
}

fn ask(path: &Path, args: &[&str]) -> Option<String> {
    let output = Command::new(path)
        .args(args)
        // cargo and rustup put the sysroot's libraries there. A linker that leans on that breaks
        // wherever they do not.
        .env_remove("LD_LIBRARY_PATH")
        .stdin(Stdio::null())
        .output()
        .ok()?;
    output.status.success().then_some(())?;
    String::from_utf8(output.stdout).ok()
}

/// Builds bpf-linker against the LLVM that rustc itself uses: no system package is needed, and the two
/// cannot disagree.
fn install(rustc: &Rustc) -> Result<()> {
    let major = rustc.llvm_major;
    let libraries = rustc.sysroot.join("lib");
    let llvm = find_llvm(rustc).with_context(|| {
        format!(
            "no bpf-linker with rustc's LLVM {major} is on the PATH, and none can be built: there is no \
             libLLVM in {}; use rustup's toolchain, or install a bpf-linker that was built with LLVM {major}",
            libraries.display()
        )
    })?;
    let prefix = prefix(&llvm)?;
    // The rpath is the sysroot's, not the prefix's, so that a checkout can be moved.
    let rpath = llvm.parent().unwrap_or(&libraries).display();

    eprintln!(
        "setup: building bpf-linker {VERSION} with rustc's LLVM {major} into target/tools (a minute or two)"
    );
    let mut cargo = project::cargo("install");
    cargo
        .args(["--quiet", "--locked", "--force", "--no-default-features"])
        .args(["--features", &format!("llvm-{major}")])
        .args(["--version", VERSION])
        .arg("--root")
        .arg(tools())
        .arg("bpf-linker")
        .env("LLVM_PREFIX", prefix)
        .env("CARGO_ENCODED_RUSTFLAGS", format!("-Clink-arg=-Wl,-rpath,{rpath}"))
        // Built in a temporary folder, not among the project's own files.
        .env_remove("CARGO_TARGET_DIR");
    command::run_before(&mut cargo)
        .with_context(|| format!("cannot build bpf-linker {VERSION} with {}", llvm.display()))
}

/// The LLVM library of `rustc`. Its name carries versions, its folder depends on who packed it, and
/// beside it lies a text file of a similar name, for linkers.
fn find_llvm(rustc: &Rustc) -> Option<PathBuf> {
    let lib = rustc.sysroot.join("lib");
    let folders = [lib.clone(), lib.join("rustlib").join(&rustc.host).join("lib")];
    folders
        .iter()
        .filter_map(|folder| fs::read_dir(folder).ok())
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("libLLVM") && name.contains(".so") && is_elf(path)
        })
}

fn is_elf(path: &Path) -> bool {
    let mut magic = [0; 4];
    fs::File::open(path).is_ok_and(|mut file| file.read_exact(&mut magic).is_ok()) && magic == *b"\x7fELF"
}

/// A folder laid out as bpf-linker's build wants LLVM's: `lib/libLLVM.so`.
fn prefix(llvm: &Path) -> Result<PathBuf> {
    let prefix = tools().join("llvm");
    let lib = prefix.join("lib");
    let link = lib.join("libLLVM.so");
    fs::create_dir_all(&lib).with_context(|| format!("cannot make the folder {}", lib.display()))?;
    if link.is_symlink() {
        fs::remove_file(&link).with_context(|| format!("cannot remove {}", link.display()))?;
    }
    symlink(llvm, &link).with_context(|| format!("cannot make the link {}", link.display()))?;
    Ok(prefix)
}

//! Finding and running other programs.

use std::{
    env,
    ffi::OsStr,
    io,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

/// Where administration tools are, which an ordinary user's `PATH` often lacks.
const SBIN: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// The program called `name` on the `PATH` or in the system's sbin folders.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(SBIN.iter().map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
}

/// Runs `command` to its end and returns how long it took.
///
/// # Errors
///
/// It cannot be started, or it does not end with status 0.
pub fn run(command: &mut Command) -> Result<Duration> {
    let started = Instant::now();
    let name = name(command);
    let status = command.status().with_context(|| format!("cannot start {name}"))?;
    if !status.success() {
        bail!("{name} failed: {status}");
    }
    Ok(started.elapsed())
}

/// As [`run`], with all that `command` prints on standard error.
///
/// For what goes before the agent: standard output is the agent's alone, whose capture may be piped into
/// another program.
///
/// # Errors
///
/// As [`run`].
pub fn run_before(command: &mut Command) -> Result<()> {
    run(command.stdout(io::stderr())).map(drop)
}

/// What `command` prints on standard output.
///
/// # Errors
///
/// It cannot be started, or it does not end with status 0, or what it prints is not UTF-8.
pub fn read(command: &mut Command) -> Result<String> {
    let name = name(command);
    let Output { status, stdout, .. } =
        command.stderr(Stdio::inherit()).output().with_context(|| format!("cannot start {name}"))?;
    if !status.success() {
        bail!("{name} failed: {status}");
    }
    String::from_utf8(stdout).with_context(|| format!("{name} printed what is not UTF-8"))
}

/// The command line for a message, the program without its folder.
fn name(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let mut words = vec![program.file_name().unwrap_or(program.as_os_str()).to_string_lossy()];
    words.extend(command.get_args().map(OsStr::to_string_lossy));
    format!("`{}`", words.join(" "))
}

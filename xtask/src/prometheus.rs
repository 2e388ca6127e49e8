//! Prometheus and its promtool, for the tests of what it reads. They are put into target/tools/prometheus and not
//! installed: Debian's package would start a service.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::{command, packages, project};

/// The programs in the package.
const PROGRAMS: [&str; 2] = ["usr/bin/prometheus", "usr/bin/promtool"];

/// Seconds that apt-get may take for the package.
const PATIENCE: &str = "90";

/// Gets Prometheus where there is none. Where that cannot be done, says why: its tests are skipped then.
pub fn try_ensure() {
    let is_installed = |name| command::find(name).is_some();
    if is_installed("prometheus") && is_installed("promtool") || folder().exists() {
        return;
    }
    eprintln!("setup: getting Debian's prometheus into target/tools");
    if let Err(error) = get() {
        eprintln!("setup: no prometheus, and its tests will be skipped: {error:#}");
    }
}

fn folder() -> PathBuf {
    project::target().join("tools/prometheus")
}

fn get() -> Result<()> {
    if command::find("apt-get").is_none() {
        bail!("there is no apt-get here");
    }
    let scratch = project::target().join("tools/prometheus.new");
    if scratch.exists() {
        fs::remove_dir_all(&scratch).with_context(|| format!("cannot remove {}", scratch.display()))?;
    }
    fs::create_dir_all(scratch.join("usr/bin"))
        .with_context(|| format!("cannot make the folder {}", scratch.display()))?;
    let download = || {
        let mut command = Command::new("timeout");
        command.args([PATIENCE, "apt-get", "-qq", "download", "prometheus"]).current_dir(&scratch);
        command::run_before(command.stdin(Stdio::null()).stderr(Stdio::null()))
    };
    // The lists of packages may be old, or there may be none.
    download().or_else(|_| packages::update().and_then(|()| download()))?;
    let mut entries = fs::read_dir(&scratch).context("cannot look for the package")?.flatten();
    let is_package = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "deb");
    let package = entries.find_map(|entry| Some(entry.path()).filter(is_package));
    let package = package.context("apt-get has left no package")?;
    let whole = scratch.join("whole");
    command::run_before(Command::new("dpkg-deb").arg("-x").arg(&package).arg(&whole))?;
    for program in PROGRAMS {
        fs::rename(whole.join(program), scratch.join(program))
            .with_context(|| format!("there is no {program} in the package"))?;
    }
    fs::remove_dir_all(&whole).context("cannot remove the rest of the package")?;
    fs::remove_file(&package).context("cannot remove the package")?;
    // All of it, or nothing that looks as if it were.
    fs::rename(&scratch, folder()).context("cannot put prometheus into target/tools")
}

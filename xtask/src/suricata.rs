//! Suricata, for the test that compares what it sees. It is put into target/tools/suricata and not installed:
//! Debian's package would start a service, and wants a suite that the machine need not have.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::{apt, command, project};

/// Where Debian 12 has it.
const SUITE: &str = "bookworm-backports";
/// Seconds that each of the two calls of apt-get may take.
const PATIENCE: &str = "90";

/// Gets Suricata where there is none. Where that cannot be done, says why: its test is skipped then.
pub fn try_ensure() {
    if command::find("suricata").is_some() || folder().exists() {
        return;
    }
    eprintln!("setup: getting Debian's suricata into target/tools");
    if let Err(error) = get() {
        eprintln!("setup: no suricata, and its test will be skipped: {error:#}");
    }
}

fn folder() -> PathBuf {
    project::target().join("tools/suricata")
}

fn get() -> Result<()> {
    if command::find("apt-get").is_none() {
        bail!("there is no apt-get here");
    }
    let scratch = project::target().join("tools/suricata.new");
    if scratch.exists() {
        fs::remove_dir_all(&scratch).with_context(|| format!("cannot remove {}", scratch.display()))?;
    }
    for folder in ["sources", "lists/partial", "cache/archives/partial", "root"] {
        let path = scratch.join(folder);
        fs::create_dir_all(&path).with_context(|| format!("cannot make the folder {}", path.display()))?;
    }
    let suite = sources(&scratch.join("sources"))?;
    command::run_before(apt_get(&scratch)?.arg("update"))?;
    command::run_before(apt_get(&scratch)?.args(suite.iter().flat_map(|suite| ["-t", suite])).args([
        "--download-only",
        "--no-install-recommends",
        "-y",
        "install",
        "suricata",
    ]))?;
    let archives = scratch.join("cache/archives");
    for entry in fs::read_dir(&archives).with_context(|| format!("cannot read {}", archives.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            command::run_before(Command::new("dpkg-deb").arg("-x").arg(path).arg(scratch.join("root")))?;
        }
    }
    // All of it, or nothing that looks as if it were.
    fs::rename(scratch.join("root"), folder()).context("cannot put suricata into target/tools")?;
    fs::remove_dir_all(&scratch).with_context(|| format!("cannot remove {}", scratch.display()))
}

/// The machine's own sources and, for Debian 12, the suite that has Suricata, whose name is given.
fn sources(folder: &Path) -> Result<Option<&'static str>> {
    for entry in fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten() {
        fs::copy(entry.path(), folder.join(entry.file_name()))
            .with_context(|| format!("cannot copy {}", entry.path().display()))?;
    }
    let system = fs::read_to_string("/etc/os-release").unwrap_or_default();
    if !system.lines().any(|line| line == "VERSION_CODENAME=bookworm") {
        return Ok(None);
    }
    let archive = apt::archive(folder).context("the machine's sources of packages name no Debian archive")?;
    let backports = format!(
        "Types: deb\nURIs: {archive}\nSuites: {SUITE}\nComponents: main\n\
         Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
    );
    fs::write(folder.join("backports-for-suricata.sources"), backports)
        .context("cannot write a list of sources")?;
    Ok(Some(SUITE))
}

/// apt-get with lists, archives and sources of its own: it needs no rights, and the machine's stay as they
/// are.
fn apt_get(scratch: &Path) -> Result<Command> {
    let scratch = scratch.to_str().context("the checkout's path is not UTF-8")?;
    let mut command = Command::new("timeout");
    command.args([PATIENCE, "apt-get", "-qq"]).stdin(Stdio::null());
    for option in [
        format!("Dir::Etc::SourceParts={scratch}/sources"),
        format!("Dir::State::Lists={scratch}/lists"),
        format!("Dir::Cache={scratch}/cache"),
        "Debug::NoLocking=1".to_owned(),
        "Acquire::Retries=1".to_owned(),
        "Acquire::http::Timeout=20".to_owned(),
        "APT::Sandbox::User=root".to_owned(),
    ] {
        command.args(["-o", &option]);
    }
    Ok(command)
}

//! A suite of the Debian archive, with an apt of its own beside the machine's: it needs no rights, and what it
//! gets is unpacked and not installed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};

use crate::{apt, command};

/// The keys that the archive's lists are signed with.
pub const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Seconds that each call of apt-get may take.
const PATIENCE: &str = "180";

/// The machine's own architecture, as Debian calls it.
const ARCH: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };

/// A suite, ready to be asked.
pub struct Suite {
    /// What belongs to its apt, thrown away with the caller's scratch folder.
    folder: PathBuf,
}

impl Suite {
    /// Fetches the lists of the suite called `name`.
    ///
    /// # Errors
    ///
    /// The machine knows no Debian archive, or it has not this suite, or does not answer.
    pub fn open(name: &str, folder: PathBuf) -> Result<Self> {
        Self::open_types(&["deb"], name, folder)
    }

    /// As [`Self::open`], with the sources of its packages.
    ///
    /// # Errors
    ///
    /// As [`Self::open`].
    pub fn open_with_sources(name: &str, folder: PathBuf) -> Result<Self> {
        Self::open_types(&["deb", "deb-src"], name, folder)
    }

    fn open_types(types: &[&str], name: &str, folder: PathBuf) -> Result<Self> {
        let archive = apt::archive(Path::new("/etc/apt/sources.list.d"))
            .context("the machine's sources of packages name no Debian archive")?;
        for part in ["parts", "lists/partial", "cache/archives/partial"] {
            let path = folder.join(part);
            fs::create_dir_all(&path)
                .with_context(|| format!("cannot make the folder {}", path.display()))?;
        }
        let suite = Self { folder };
        suite.write("status", "")?;
        let line = |kind| format!("{kind} [arch={ARCH} signed-by={KEYRING}] {archive} {name} main\n");
        suite.write("sources.list", &types.iter().map(line).collect::<String>())?;
        suite.write("apt.conf", &suite.configuration())?;
        command::run_before(suite.command("apt-get").arg("update"))
            .with_context(|| format!("cannot get the lists of Debian's {name}"))?;
        Ok(suite)
    }

    /// An old suite's lists are past their date, and its packages are not.
    fn configuration(&self) -> String {
        let folder = self.folder.display();
        format!(
            "Dir::Etc::Main \"{folder}/none\"; Dir::Etc::Parts \"{folder}/parts\";\n\
             Dir::Etc::SourceList \"{folder}/sources.list\"; Dir::Etc::SourceParts \"{folder}/parts\";\n\
             Dir::Etc::Preferences \"{folder}/none\"; Dir::Etc::PreferencesParts \"{folder}/parts\";\n\
             Dir::State \"{folder}\"; Dir::State::Lists \"{folder}/lists\"; Dir::State::Status \"{folder}/status\";\n\
             Dir::Cache \"{folder}/cache\"; APT::Architecture \"{ARCH}\"; APT::Sandbox::User \"root\";\n\
             Acquire::Check-Valid-Until \"false\"; Acquire::Languages \"none\"; Acquire::Retries \"2\";\n\
             Acquire::http::Timeout \"20\"; Debug::NoLocking \"1\";\n"
        )
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.folder.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// The packages that `package` needs.
    ///
    /// # Errors
    ///
    /// The suite has no such package.
    pub fn needs(&self, package: &str) -> Result<Vec<String>> {
        let text = command::read(self.command("apt-cache").args(["depends", package]))?;
        let needed = text.lines().filter_map(|line| line.trim_start().strip_prefix("Depends: "));
        Ok(needed.map(str::to_owned).collect())
    }

    /// Unpacks `packages` below `root`.
    ///
    /// # Errors
    ///
    /// They cannot be got, or the disk is full.
    pub fn unpack(&self, packages: &[String], root: &Path) -> Result<()> {
        let archives = self.folder.join("cache/archives");
        command::run_before(self.command("apt-get").arg("download").args(packages).current_dir(&archives))?;
        for entry in fs::read_dir(&archives).with_context(|| format!("cannot read {}", archives.display()))? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "deb") {
                command::run_before(Command::new("dpkg-deb").arg("-x").arg(path).arg(root))?;
            }
        }
        Ok(())
    }

    /// Gets the files of the source package `package` into `to`.
    ///
    /// # Errors
    ///
    /// They cannot be got.
    pub fn download_source(&self, package: &str, to: &Path) -> Result<()> {
        let mut command = self.command("apt-get");
        command::run_before(command.args(["source", "--download-only", package]).current_dir(to))
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("timeout");
        command.args([PATIENCE, program, "-qq"]).env("APT_CONFIG", self.folder.join("apt.conf"));
        command.stdin(Stdio::null());
        command
    }
}

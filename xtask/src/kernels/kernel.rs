//! A kernel of Debian's and the modules that the tests need, kept in target/kernels.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::{cpio::Cpio, folder, suite::Suite};
use crate::command;

/// The suites that are asked for their kernel: 5.10, 6.1, 6.12, and the newest that is built for a stable Debian.
pub const SUITES: [&str; 4] = ["bullseye", "bookworm", "bookworm-backports", "trixie-backports"];

/// The package that always needs the suite's latest kernel, in a build with few drivers.
const LATEST: &str = "linux-image-cloud-amd64";

/// What the tests use and no kernel has built in.
const MODULES: [&str; 10] = [
    "veth",
    "vxlan",
    "bridge",
    "tun",
    "sch_ingress",
    "sch_tbf",
    "cls_bpf",
    "cls_u32",
    "act_mirred",
    "act_gact",
];

/// A kernel that can be started.
pub struct Kernel {
    /// As `uname -r` says it.
    pub release: String,
    /// The kernel itself.
    pub image: PathBuf,
    /// An archive with its modules in /modules, named so that each comes behind those that it needs.
    pub modules: PathBuf,
}

impl Kernel {
    /// The kernel of a suite, from an earlier time or from the archive.
    ///
    /// # Errors
    ///
    /// It cannot be got.
    pub fn of(suite: &str) -> Result<Self> {
        let kept = folder().join(suite);
        if !kept.exists() {
            eprintln!("setup: getting the kernel of Debian's {suite} into target/kernels");
            get(suite, &kept).with_context(|| format!("cannot get the kernel of Debian's {suite}"))?;
        }
        let release = kept.join("release");
        let release = fs::read_to_string(&release)
            .with_context(|| format!("cannot read {}: remove its folder", release.display()))?;
        Ok(Self { release, image: kept.join("vmlinuz"), modules: kept.join("modules.cpio") })
    }
}

/// All of it or nothing, and only what is needed: the packages are ten times as large.
fn get(suite: &str, kept: &Path) -> Result<()> {
    let scratch = kept.with_extension("new");
    if scratch.exists() {
        fs::remove_dir_all(&scratch).with_context(|| format!("cannot remove {}", scratch.display()))?;
    }
    let (root, wanted) = (scratch.join("root"), scratch.join("kept"));
    for folder in [&root, &wanted] {
        fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    }
    let archive = Suite::open(suite, scratch.join("apt"))?;
    let starts_with = |name: &String, starts: &[&str]| {
        starts.iter().any(|start| {
            name.strip_prefix(start).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        })
    };
    let latest = archive.needs(LATEST)?;
    let package = latest.into_iter().find(|name| starts_with(name, &["linux-image-"]));
    let package = package.with_context(|| format!("{LATEST} names no kernel"))?;
    // The image has its version in its name. Newer ones are in several packages.
    let release = package.trim_start_matches("linux-image-").to_owned();
    let mut packages = archive.needs(&package)?;
    packages.retain(|name| starts_with(name, &["linux-binary-", "linux-modules-"]));
    packages.push(package);
    archive.unpack(&packages, &root)?;

    let image = find(&root, "vmlinuz").context("there is no kernel in its packages")?;
    fs::copy(&image, wanted.join("vmlinuz")).context("cannot keep the kernel")?;
    let modules = modules(&root, &release)?;
    fs::write(wanted.join("modules.cpio"), modules).context("cannot keep the modules")?;
    fs::write(wanted.join("release"), &release).context("cannot keep the kernel's version")?;
    fs::rename(&wanted, kept).context("cannot put the kernel into target/kernels")?;
    fs::remove_dir_all(&scratch).with_context(|| format!("cannot remove {}", scratch.display()))
}

/// The first file below `folder` whose name starts with `start`.
fn find(folder: &Path, start: &str) -> Option<PathBuf> {
    let entries: Vec<_> = fs::read_dir(folder).ok()?.flatten().collect();
    let is_it = |entry: &&fs::DirEntry| {
        entry.file_name().to_string_lossy().starts_with(start)
            && entry.file_type().is_ok_and(|kind| kind.is_file())
    };
    if let Some(entry) = entries.iter().find(is_it) {
        return Some(entry.path());
    }
    let folders = entries.iter().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.filter_map(|entry| find(&entry.path(), start)).next()
}

/// The modules of [`MODULES`] and those that they need, in the order in which they can be loaded.
fn modules(root: &Path, release: &str) -> Result<Vec<u8>> {
    let lib = root.join("lib");
    if !lib.join("modules").exists() {
        // Where the package has them since /lib is a link.
        fs::create_dir_all(&lib)
            .and_then(|()| std::os::unix::fs::symlink("../usr/lib/modules", lib.join("modules")))
            .context("cannot make lib/modules")?;
    }
    // Some packages lack these, and depmod says so each time.
    for list in ["modules.order", "modules.builtin", "modules.builtin.modinfo"] {
        let path = lib.join("modules").join(release).join(list);
        if !path.exists() {
            fs::write(&path, "").with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    command::run_before(tool("depmod")?.arg("-b").arg(root).arg(release))?;
    let mut paths: Vec<PathBuf> = Vec::new();
    for module in MODULES {
        let mut modprobe = tool("modprobe")?;
        modprobe.arg("-d").arg(root).args(["-S", release, "-D", module]);
        // Lines `insmod FILE`, and `builtin NAME` of what needs no file.
        for line in command::read(&mut modprobe)?.lines() {
            let path = line.strip_prefix("insmod ").map(|path| PathBuf::from(path.trim()));
            paths.extend(path.filter(|path| !paths.contains(path)));
        }
    }
    let mut cpio = Cpio::default();
    for (index, path) in paths.iter().enumerate() {
        let name = path.file_name().context("a module without a name")?.to_string_lossy();
        cpio.copy(&Path::new("/modules").join(format!("{index:02}-{name}")), path)?;
    }
    Ok(cpio.finish())
}

fn tool(name: &str) -> Result<Command> {
    match command::find(name) {
        Some(path) => Ok(Command::new(path)),
        None => bail!("there is no {name} here"),
    }
}

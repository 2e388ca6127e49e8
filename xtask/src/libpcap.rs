//! libpcap, whose compiler the agent has for filters: built from Debian's source package, without all that captures,
//! so that the agent needs no library where it runs, and a filter means what it means to the machine's tcpdump.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::{command, kernels::suite::Suite, project};

/// What libpcap's build wants beside a C compiler: got for the occasion where it is missing.
const TOOLS: [&str; 4] = ["make", "flex", "bison", "m4"];

/// The C library that it is built for.
#[derive(Clone, Copy)]
enum Libc {
    /// The system's.
    System,
    /// musl, for the static program.
    Musl,
}

impl Libc {
    /// Where mirror-agent/build.rs looks.
    fn folder(self) -> PathBuf {
        project::target().join(match self {
            Self::System => "tools/libpcap",
            Self::Musl => "tools/libpcap-musl",
        })
    }

    fn compiler(self) -> &'static str {
        match self {
            Self::System => "cc",
            Self::Musl => "musl-gcc",
        }
    }

    fn flags(self) -> String {
        const ALL: &str = "-O2 -w";
        match self {
            Self::System => ALL.into(),
            // The kernel's headers are with the system's, behind musl's own.
            Self::Musl => format!(
                "{ALL} -idirafter /usr/include -idirafter /usr/include/{}-linux-gnu",
                env::consts::ARCH
            ),
        }
    }
}

/// Sees to it that mirror-agent/build.rs finds libpcap: in target/tools/libpcap, else the system's.
///
/// # Errors
///
/// There is none, and it cannot be built.
pub fn ensure() -> Result<()> {
    if Libc::System.folder().join("libpcap.a").exists() {
        return Ok(());
    }
    eprintln!("setup: building libpcap's filter compiler into target/tools");
    let Err(error) = build(Libc::System) else { return Ok(()) };
    if is_in_system() {
        eprintln!("setup: the agent will need the system's libpcap, since it cannot be built: {error:#}");
        return Ok(());
    }
    Err(error.context(
        "cannot build libpcap from Debian's sources, and the system has none to link with: install what Debian calls \
         libpcap-dev, and others libpcap-devel",
    ))
}

/// Sees to it that mirror-agent/build.rs finds libpcap for a static program.
///
/// # Errors
///
/// It cannot be built.
pub fn ensure_for_musl() -> Result<()> {
    if Libc::Musl.folder().join("libpcap.a").exists() {
        return Ok(());
    }
    eprintln!("setup: building libpcap's filter compiler for musl into target/tools");
    build(Libc::Musl).context("cannot build libpcap for musl from Debian's sources")
}

/// Whether the C compiler finds a libpcap.
fn is_in_system() -> bool {
    ["libpcap.so", "libpcap.a"].into_iter().any(|name| {
        let found = command::read(Command::new("cc").arg(format!("-print-file-name={name}")));
        found.is_ok_and(|path| Path::new(path.trim()).is_absolute())
    })
}

fn build(libc: Libc) -> Result<()> {
    if command::find("apt-get").is_none() {
        bail!("there is no apt-get here");
    }
    let scratch = libc.folder().with_extension("new");
    if scratch.exists() {
        fs::remove_dir_all(&scratch).with_context(|| format!("cannot remove {}", scratch.display()))?;
    }
    let root = scratch.join("root");
    fs::create_dir_all(&root).with_context(|| format!("cannot make the folder {}", root.display()))?;
    let suite = Suite::open_with_sources(&codename()?, scratch.join("apt"))?;
    let missing: Vec<String> =
        TOOLS.into_iter().filter(|name| command::find(name).is_none()).map(str::to_owned).collect();
    if !missing.is_empty() {
        suite.unpack(&missing, &root)?;
    }
    suite.download_source("libpcap", &scratch)?;
    let archive = find(&scratch, |name| name.starts_with("libpcap_") && name.contains(".orig.tar."))?;
    command::run_before(Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(&scratch))?;
    let source = find(&scratch, |name| name.starts_with("libpcap-"))?;
    // Nothing that captures, and nothing that needs another library: what is left compiles and reads.
    let without = ["dbus", "usb", "bluetooth", "rdma", "netmap", "remote", "shared"];
    let mut configure = in_source("./configure", &source, &root)?;
    configure.arg("--with-pcap=null").args(without.map(|what| format!("--disable-{what}")));
    configure.args(["dag", "snf", "dpdk", "libnl"].map(|what| format!("--without-{what}")));
    command::run_before(configure.args(["--quiet"]).env("CFLAGS", libc.flags()).env("CC", libc.compiler()))?;
    command::run_before(in_source("make", &source, &root)?.args(["-s", "libpcap.a"]))?;

    let built = scratch.join("built");
    fs::create_dir_all(&built).with_context(|| format!("cannot make the folder {}", built.display()))?;
    for name in ["libpcap.a", "LICENSE", "VERSION"] {
        fs::copy(source.join(name), built.join(name)).with_context(|| format!("libpcap has no {name}"))?;
    }
    // All of it, or nothing that looks as if it were.
    let folder = libc.folder();
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("cannot replace {}", folder.display()))?;
    }
    fs::rename(&built, &folder).context("cannot put libpcap into target/tools")?;
    fs::remove_dir_all(&scratch).with_context(|| format!("cannot remove {}", scratch.display()))
}

/// The machine's own suite of Debian's, so that tcpdump here and the agent have the same compiler.
fn codename() -> Result<String> {
    let system = fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release")?;
    let is_debian = system.lines().any(|line| line == "ID=debian");
    let name = system.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    name.filter(|_| is_debian).map(str::to_owned).context("this is not a release of Debian")
}

fn find(folder: &Path, is_it: impl Fn(&str) -> bool) -> Result<PathBuf> {
    fs::read_dir(folder)
        .with_context(|| format!("cannot read {}", folder.display()))?
        .flatten()
        .find(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            is_it(&name) && !name.ends_with(".asc")
        })
        .map(|entry| entry.path())
        .context("the source package has not what was expected")
}

/// A command in libpcap's source that finds the tools which were unpacked below `root`.
fn in_source(program: &str, source: &Path, root: &Path) -> Result<Command> {
    let path = env::var_os("PATH").unwrap_or_default();
    let own = root.join("usr/bin");
    let mut command = Command::new(program);
    command
        .current_dir(source)
        .stdin(Stdio::null())
        .env("PATH", env::join_paths(env::split_paths(&path).chain([own.clone()]))?);
    if own.join("bison").exists() {
        command.env("BISON_PKGDATADIR", root.join("usr/share/bison"));
    }
    if own.join("m4").exists() {
        command.env("M4", own.join("m4"));
    }
    Ok(command)
}

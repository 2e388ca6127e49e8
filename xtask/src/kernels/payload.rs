//! What a test machine starts with: the tests, the agent, the tools that they call, and the libraries of all.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::{cpio::Cpio, folder, selection::Selection};
use crate::{agent, command, project, test};

const INIT: &str = include_str!("init.sh");

/// What the selected tests call, and init.sh. BusyBox has the rest.
const TOOLS: [&str; 9] = ["ip", "tc", "ss", "ping", "ethtool", "bpftool", "tcpdump", "setpriv", "insmod"];

/// tcpdump gives up root for a user of its own.
const USERS: &str =
    "root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\ntcpdump:x:104:104::/:/bin/sh\n";
const GROUPS: &str = "root:x:0:\nnogroup:x:65534:\ntcpdump:x:104:\n";

/// The archive with everything but the kernel's modules.
///
/// # Errors
///
/// The tests do not build, or a tool is missing.
pub fn archive(selected: &[Selection], filter: &str) -> Result<Vec<u8>> {
    let mut cpio = Cpio::default();
    for name in ["/dev", "/proc", "/sys", "/tmp", "/run", "/root", "/busybox", "/modules"] {
        cpio.folder(Path::new(name));
    }
    cpio.file(Path::new("/init"), 0o755, INIT.as_bytes());
    cpio.file(Path::new("/etc/passwd"), 0o644, USERS.as_bytes());
    cpio.file(Path::new("/etc/group"), 0o644, GROUPS.as_bytes());
    cpio.link(Path::new("/bin/sh"), "busybox");
    add(&mut cpio, Path::new("/bin/busybox"), &find("busybox")?)?;
    for tool in TOOLS {
        add(&mut cpio, &Path::new("/usr/sbin").join(tool), &find(tool)?)?;
    }
    add_stripped(&mut cpio, "mirror-agent", &agent::path())?;
    // As the other parts of `cargo xtask test` build them, or it would be done twice.
    let mut binaries = build(test::END_TO_END)?;
    binaries.extend(build(test::UNIT)?);
    let mut list = String::new();
    for Selection { binary, left_out } in selected {
        let path = binaries.iter().find(|(name, _)| name == binary);
        let (name, path) = path.with_context(|| format!("there are no tests called {binary}"))?;
        add_stripped(&mut cpio, name, path)?;
        let skips: String = left_out.iter().map(|(test, _)| format!(" --skip {test}")).collect();
        list.push_str(&format!("{name} {filter}{skips}\n"));
    }
    cpio.file(Path::new("/tests.list"), 0o644, list.as_bytes());
    Ok(cpio.finish())
}

/// Builds the tests; gives their names and files.
fn build(what: &[&str]) -> Result<Vec<(String, PathBuf)>> {
    let mut cargo = project::cargo("test");
    cargo.args(what).args(["--no-run", "--message-format=json-render-diagnostics"]);
    let text = command::read(&mut cargo)?;
    let messages = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let binary = |message: serde_json::Value| {
        let name = message["target"]["name"].as_str()?.to_owned();
        Some((name, PathBuf::from(message["executable"].as_str()?)))
    };
    Ok(messages.filter_map(binary).collect())
}

fn find(tool: &str) -> Result<PathBuf> {
    command::find(tool).with_context(|| format!("there is no {tool} here"))
}

/// Without what debuggers need, which is most of it: the machine holds all files in memory.
fn add_stripped(cpio: &mut Cpio, name: &str, path: &Path) -> Result<()> {
    let stripped = folder().join("stripped");
    command::run_before(Command::new("strip").arg("-o").arg(&stripped).arg(path))?;
    add(cpio, &Path::new("/test").join(name), &stripped)?;
    fs::remove_file(&stripped).with_context(|| format!("cannot remove {}", stripped.display()))
}

/// A program, and the libraries that the dynamic linker would load for it here.
fn add(cpio: &mut Cpio, name: &Path, path: &Path) -> Result<()> {
    cpio.copy(name, path)?;
    let output = Command::new("ldd").arg(path).output().context("cannot start ldd")?;
    // It fails for what needs no libraries.
    let text = String::from_utf8_lossy(&output.stdout);
    if text.contains("not found") {
        bail!("{} lacks libraries here:\n{text}", path.display());
    }
    // Lines such as `libelf.so.1 => /lib/libelf.so.1 (0x7f..)`, and the linker's own path alone.
    for library in text.split_whitespace().filter(|word| word.starts_with('/')).map(Path::new) {
        if !cpio.has(library) {
            cpio.copy(library, library)?;
        }
    }
    Ok(())
}

//! The Debian packages whose programs the end-to-end tests and the benchmark use.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::{command, kernels::KEYRING, privilege};

/// What shows that a package is there.
enum Proof {
    Command(&'static str),
    File(&'static str),
}

impl Proof {
    fn holds(&self) -> bool {
        match self {
            Self::Command(name) => command::find(name).is_some(),
            Self::File(path) => Path::new(path).exists(),
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Command(name) | Self::File(name) => name,
        }
    }
}

/// Package, and its proof. Scapy is imported by Debian's own Python, not by one that comes earlier on the
/// `PATH`, hence the files.
const NEEDED: [(&str, Proof); 19] = [
    ("iproute2", Proof::Command("ip")),
    ("iputils-ping", Proof::Command("ping")),
    ("tcpdump", Proof::Command("tcpdump")),
    ("tshark", Proof::Command("tshark")),
    ("ethtool", Proof::Command("ethtool")),
    ("bpftool", Proof::Command("bpftool")),
    ("tcpreplay", Proof::Command("tcpreplay")),
    ("iperf3", Proof::Command("iperf3")),
    ("tmux", Proof::Command("tmux")),
    ("zstd", Proof::Command("zstd")),
    ("nftables", Proof::Command("nft")),
    ("curl", Proof::Command("curl")),
    ("procps", Proof::Command("sysctl")),
    ("util-linux", Proof::Command("nsenter")),
    ("libcap2-bin", Proof::Command("setcap")),
    ("systemd", Proof::Command("systemd-analyze")),
    ("mandoc", Proof::Command("mandoc")),
    ("python3", Proof::File("/usr/bin/python3")),
    ("python3-scapy", Proof::File("/usr/lib/python3/dist-packages/scapy/__init__.py")),
];

/// What runs the tests on other kernels, beside [`NEEDED`]. The keys are there on Debian, and not on its descendants.
const KERNELS: [(&str, Proof); 5] = [
    ("qemu-system-x86", Proof::Command("qemu-system-x86_64")),
    ("busybox-static", Proof::Command("busybox")),
    ("kmod", Proof::Command("modprobe")),
    ("binutils", Proof::Command("strip")),
    ("debian-archive-keyring", Proof::File(KEYRING)),
];

/// What the benchmark does not run without.
const BENCH: [(&str, Proof); 3] = [
    ("iproute2", Proof::Command("ip")),
    ("ethtool", Proof::Command("ethtool")),
    ("util-linux", Proof::Command("taskset")),
];

/// What it compares with, and leaves out where it is not to be had.
const COMPARED: [(&str, Proof); 4] = [
    ("iproute2", Proof::Command("tc")),
    ("daemonlogger", Proof::Command("daemonlogger")),
    ("netsniff-ng", Proof::Command("netsniff-ng")),
    ("iperf3", Proof::Command("iperf3")),
];

/// What builds the static program.
const STATIC: [(&str, Proof); 1] = [("musl-tools", Proof::Command("musl-gcc"))];

/// As [`ensure`], for the static program.
///
/// # Errors
///
/// As [`ensure`].
pub fn ensure_for_static() -> Result<()> {
    ensure_for("the static program needs", &STATIC)
}

/// Installs the packages of the end-to-end tests that are missing; does nothing when none is.
///
/// # Errors
///
/// Some are missing, and there is no apt-get, or no right to use it, or it failed.
pub fn ensure() -> Result<()> {
    ensure_for("the end-to-end tests need", &NEEDED)
}

/// As [`ensure`], for the tests on other kernels.
///
/// # Errors
///
/// As [`ensure`].
pub fn ensure_for_kernels() -> Result<()> {
    ensure()?;
    ensure_for("the tests on other kernels need", &KERNELS)
}

/// As [`ensure`], for the benchmark. What it can do without is a line on standard error.
///
/// # Errors
///
/// As [`ensure`].
pub fn ensure_for_bench() -> Result<()> {
    ensure_for("the benchmark needs", &BENCH)?;
    for package in COMPARED {
        if let Err(error) = ensure_for("to compare with it, the benchmark needs", &[package]) {
            eprintln!("setup: {error:#}");
        }
    }
    Ok(())
}

fn ensure_for(whose: &str, needed: &[(&'static str, Proof)]) -> Result<()> {
    let (packages, proofs): (Vec<_>, Vec<_>) = needed
        .iter()
        .filter(|(_, proof)| !proof.holds())
        .map(|(package, proof)| (*package, proof.name()))
        .unzip();
    if packages.is_empty() {
        return Ok(());
    }
    if command::find("apt-get").is_none() {
        bail!(
            "{whose} {}, and there is no apt-get here: install what Debian calls {}",
            proofs.join(", "),
            packages.join(" ")
        );
    }
    eprintln!("setup: installing the Debian packages {}", packages.join(" "));
    install(&packages).with_context(|| format!("cannot install {}", packages.join(" ")))
}

/// Has apt-get read its lists of packages anew.
///
/// # Errors
///
/// No right to, or it failed.
pub fn update() -> Result<()> {
    command::run_before(apt_get()?.arg("update"))
}

fn install(packages: &[&str]) -> Result<()> {
    update()?;
    command::run_before(apt_get()?.args(["install", "-y", "--no-install-recommends"]).args(packages))
}

/// apt-get as root, with little to say and nothing to ask.
fn apt_get() -> Result<Command> {
    // Through env, because sudo hands no variables on.
    let mut command = privilege::as_root("env")?;
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq"]).stdin(Stdio::null());
    Ok(command)
}

//! The agent with some capabilities and no others, and what its threads have, as the kernel says.

use std::{
    ffi::{CString, OsStr},
    fs, io,
    os::{
        fd::AsRawFd as _,
        unix::{ffi::OsStrExt as _, process::CommandExt as _},
    },
    path::Path,
    process::Command,
};

use crate::{agent, host::Host};

/// What mirrors need, whatever the path: as setpriv(1) calls them.
pub const THREE: [&str; 3] = ["bpf", "net_admin", "perfmon"];

/// Numbers of linux/capability.h, as bits of a set.
const NUMBERS: [(&str, u32); 7] = [
    ("bpf", 39),
    ("dac_override", 1),
    ("dac_read_search", 2),
    ("net_admin", 12),
    ("net_raw", 13),
    ("perfmon", 38),
    ("sys_admin", 21),
];

/// Nobody's numbers, on every Debian.
pub const NOBODY: u32 = 65_534;

/// A set as /proc shows it.
///
/// # Panics
/// Where there is no such capability in the list above.
#[must_use]
pub fn set(names: &[&str]) -> u64 {
    let bit = |name: &&str| {
        NUMBERS.iter().find(|(known, _)| known == name).map(|(_, bit)| 1_u64 << bit).expect("a capability")
    };
    names.iter().map(bit).fold(0, |set, bit| set | bit)
}

/// A set, by names.
#[must_use]
pub fn names(set: u64) -> String {
    let known = NUMBERS.iter().filter(|(_, bit)| set >> bit & 1 != 0).map(|(name, _)| *name);
    let names: Vec<_> = known.collect();
    if names.is_empty() { format!("{set:x}") } else { format!("{set:x} ({})", names.join(" ")) }
}

/// As whom it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum As {
    /// Root, with these capabilities and none besides.
    Root,
    /// Nobody, with ambient ones.
    Nobody,
    /// Nobody, with none but what the file gives that is run.
    Bare,
}

/// The command that runs `program` in `host` with `capabilities` and no others; it becomes the program by exec.
#[must_use]
pub fn run(
    host: &Host,
    who: As,
    capabilities: &[&str],
    program: impl AsRef<OsStr>,
    arguments: &str,
) -> Command {
    let only = |first: &str| {
        [first]
            .into_iter()
            .map(str::to_owned)
            .chain(capabilities.iter().map(|name| format!("+{name}")))
            .collect::<Vec<_>>()
            .join(",")
    };
    let mut command = host.command("setpriv");
    // SAFETY: one system call, with a value of its own.
    unsafe {
        // Linux before 5.11 counts rings and tables against it, which without CAP_SYS_RESOURCE nobody lifts.
        command.pre_exec(|| {
            let unlimited = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
            libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const unlimited);
            Ok(())
        });
    }
    let (bounding, inheritable) = (only("-all"), only("-all"));
    match who {
        As::Root => command.args(["--inh-caps=-all", "--bounding-set", &bounding]),
        As::Nobody => command.args([
            &format!("--inh-caps={inheritable}"),
            &format!("--ambient-caps={inheritable}"),
            "--bounding-set",
            &bounding,
        ]),
        As::Bare => command.args(["--inh-caps=-all"]),
    };
    if who != As::Root {
        let id = NOBODY.to_string();
        command.args(["--reuid", &id, "--regid", &id, "--clear-groups"]);
    }
    command.arg("--").arg(program).args(arguments.split_whitespace()).env_remove("RUST_LOG");
    command
}

/// The same of the agent.
#[must_use]
pub fn agent(host: &Host, who: As, capabilities: &[&str], arguments: &str) -> Command {
    run(host, who, capabilities, agent::binary(), arguments)
}

/// What a thread has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sets {
    pub inheritable: u64,
    pub permitted: u64,
    pub effective: u64,
    pub bounding: u64,
    pub ambient: u64,
    pub no_new_privs: bool,
}

/// A thread of a process.
#[derive(Debug, Clone)]
pub struct Thread {
    pub name: String,
    /// Whether it is the one that the process began with.
    pub is_first: bool,
    pub sets: Sets,
}

/// The threads of a process, and what each has.
///
/// # Panics
/// Where there is no such process.
#[must_use]
pub fn threads(pid: u32) -> Vec<Thread> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("no such process");
    // A thread may be gone by now.
    let statuses = tasks.flatten().filter_map(|task| fs::read_to_string(task.path().join("status")).ok());
    statuses
        .map(|status| {
            let field = |name: &str| {
                let value = |line: &str| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim().to_owned());
                status.lines().find_map(value).expect("a field of status")
            };
            let set = |name: &str| u64::from_str_radix(&field(name), 16).expect("a set");
            let sets = Sets {
                inheritable: set("CapInh"),
                permitted: set("CapPrm"),
                effective: set("CapEff"),
                bounding: set("CapBnd"),
                ambient: set("CapAmb"),
                no_new_privs: field("NoNewPrivs") == "1",
            };
            Thread { name: field("Name"), is_first: field("Pid") == pid.to_string(), sets }
        })
        .collect()
}

/// The command that runs `program` in `host` with `capabilities` and no others, in a root of its own: `root` is all that it
/// sees of the machine's files.
///
/// # Panics
/// Where there is no such host.
#[must_use]
pub fn in_root(host: &Host, root: &Path, capabilities: &[&str], program: &str, arguments: &str) -> Command {
    let namespace = host.open();
    let root = CString::new(root.as_os_str().as_bytes()).expect("a path");
    let kept = set(capabilities);
    let mut command = Command::new(program);
    command.args(arguments.split_whitespace()).env_clear();
    // SAFETY: system calls with descriptors and strings that were made before the fork, and nothing else.
    unsafe {
        command.pre_exec(move || {
            let checked = |result: i32| if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
            checked(libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET))?;
            checked(libc::unshare(libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS))?;
            checked(libc::chroot(root.as_ptr()))?;
            checked(libc::chdir(c"/".as_ptr()))?;
            // What root gets by exec is what is left of this set (capabilities(7)).
            for capability in 0..64 {
                if kept >> capability & 1 == 0 {
                    // Fails for the numbers that the kernel does not know.
                    libc::prctl(libc::PR_CAPBSET_DROP, capability as libc::c_ulong, 0, 0, 0);
                }
            }
            Ok(())
        });
    }
    command
}

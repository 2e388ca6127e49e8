//! Settings below /proc/sys. Those below `net` are the network namespace's of this process, some of them are the whole
//! host's: in another namespace these cannot be seen, or not be written (net/core/sysctl_net_core.c).

use std::{
    fs::{self, File},
    io, thread,
};

use nix::{
    sched::{CloneFlags, setns},
    unistd::{AccessFlags, access},
};

use super::finding::Finding;

/// Reads a setting; `key` with dots, as sysctl(8) has it, and no dot in an interface's name.
///
/// # Errors
///
/// `NotFound`: this kernel, or this network namespace, has no such setting. Else what reading said.
pub fn read(key: &str) -> io::Result<String> {
    fs::read_to_string(path(key)).map(|text| text.trim().to_owned())
}

/// Reads a setting that is one number.
///
/// # Errors
///
/// As [`read`], and `InvalidData` where it is no number.
pub fn number(key: &str) -> io::Result<u64> {
    parse(key, &read(key)?)
}

/// As [`number`], of the whole host, where this process may look into its namespace.
///
/// # Errors
///
/// As [`number`]; `NotFound` where it may not.
pub fn of_host(key: &str) -> io::Result<u64> {
    match number(key) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let path = path(key);
            let holder = holder(key).ok_or(error)?;
            let text = within(holder, move || fs::read_to_string(path)).ok_or(io::ErrorKind::NotFound)??;
            parse(key, text.trim())
        }
        result => result,
    }
}

fn parse(key: &str, text: &str) -> io::Result<u64> {
    text.parse().map_err(|_| io::Error::new(io::ErrorKind::InvalidData, format!("{key} is {text:?}")))
}

fn path(key: &str) -> String {
    format!("/proc/sys/{}", key.replace('.', "/"))
}

/// The command that sets it. `-q`: it says nothing where it works.
#[must_use]
pub fn set(key: &str, value: impl std::fmt::Display) -> String {
    format!("sysctl -q -w {key}={value}")
}

/// Adds to a finding what sets each key from its value to another one. Safe, where it can be done from here; else the
/// finding says where.
#[must_use]
pub fn mend(mut finding: Finding, settings: &[(&str, u64, u64)]) -> Finding {
    let mut can_be_done = true;
    for (key, value, wanted) in settings {
        let prefix = match holder(key) {
            _ if is_writable(&path(key)) => String::new(),
            Some(process) => format!("nsenter -t{process} -n "),
            None => {
                can_be_done = false;
                String::new()
            }
        };
        let command = |value: &u64| format!("{prefix}{}", set(key, value));
        finding = finding.mend(command(wanted), command(value));
    }
    if can_be_done {
        return finding.safe();
    }
    finding.found += " (the whole host's: it has to be set there)";
    finding
}

/// For a setting that cannot be seen from here.
#[must_use]
pub fn hidden(key: &str) -> Finding {
    let found = format!("{key} cannot be seen in this network namespace");
    Finding::note(found, "it is the whole host's: run this check there")
}

/// The mode says it, to root as well.
fn is_writable(path: &str) -> bool {
    access(path, AccessFlags::W_OK).is_ok()
}

/// A process in another network namespace, where the setting can be set: the first one, or one that started this one. So it
/// is in a namespace of `ip netns`, and in a container that sees the host's processes.
fn holder(key: &str) -> Option<u32> {
    let namespace = |process: u32| fs::read_link(format!("/proc/{process}/ns/net")).ok();
    let own = namespace(std::process::id());
    let mut candidates = vec![1];
    candidates.extend(ancestors());
    let path = path(key);
    candidates.into_iter().find(|process| {
        let path = path.clone();
        let is_another = namespace(*process).is_some_and(|other| Some(other) != own);
        is_another && within(*process, move || is_writable(&path)) == Some(true)
    })
}

/// The parent, its parent, and so on, as far as they can be seen.
fn ancestors() -> Vec<u32> {
    let mut all = Vec::new();
    let mut process = std::process::id();
    loop {
        let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
        match parent.and_then(|parent| parent.trim().parse().ok()) {
            None | Some(0 | 1) => return all,
            Some(parent) => process = parent,
        }
        all.push(process);
    }
}

/// What `look` gives on a thread in the network namespace of a process; `None` where that may not be entered.
fn within<T: Send + 'static>(process: u32, look: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let namespace = File::open(format!("/proc/{process}/ns/net")).ok()?;
    // /proc/sys/net shows that of the thread that opens it. This one ends with it.
    let thread = thread::spawn(move || setns(namespace, CloneFlags::CLONE_NEWNET).ok().map(|()| look()));
    thread.join().ok().flatten()
}

//! Who has a socket open.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// A process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Its program's name, as `ps` shows it.
    pub name: String,
    /// What it was started with, the program first.
    pub arguments: Vec<String>,
    /// Whether somebody has stopped it (SIGSTOP), or a debugger has.
    pub is_stopped: bool,
}

impl Process {
    /// The process with this number.
    #[must_use]
    pub fn find(pid: u32) -> Option<Self> {
        read(&Path::new("/proc").join(pid.to_string()))
    }

    /// The systemd unit that it belongs to, if it is a service.
    #[must_use]
    pub fn unit(&self) -> Option<String> {
        let cgroup = fs::read_to_string(format!("/proc/{}/cgroup", self.pid)).ok()?;
        unit(&cgroup)
    }

    /// Whether it is Docker's userland proxy, which passes datagrams on to a container.
    #[must_use]
    pub fn is_userland_proxy(&self) -> bool {
        let program = self.arguments.first().and_then(|path| path.rsplit('/').next());
        let names = ["docker-proxy", "rootlesskit-docker-proxy", "rootlessport"];
        names.iter().any(|name| self.name == *name || program == Some(name))
            // The kernel keeps 15 characters.
            || self.name.starts_with("rootlesskit-doc")
    }

    /// What follows an option on its command line.
    #[must_use]
    pub fn argument(&self, option: &str) -> Option<&str> {
        let at = self.arguments.iter().position(|argument| argument == option)?;
        self.arguments.get(at + 1).map(String::as_str)
    }
}

impl std::fmt::Display for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (pid {})", self.name, self.pid)
    }
}

/// The processes that have sockets open, by the sockets' inode numbers. Those of other users cannot be seen without
/// `CAP_SYS_PTRACE`.
#[must_use]
pub fn holders(inodes: &BTreeSet<u32>) -> BTreeMap<u32, Vec<Process>> {
    let mut all = BTreeMap::<u32, Vec<Process>>::new();
    if inodes.is_empty() {
        return all;
    }
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let is_process = process.file_name().to_string_lossy().starts_with(|c: char| c.is_ascii_digit());
        if !is_process {
            continue;
        }
        let mut held = BTreeSet::new();
        for descriptor in fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten() {
            let inode = fs::read_link(descriptor.path()).ok().and_then(|to| inode(&to.to_string_lossy()));
            held.extend(inode.filter(|inode| inodes.contains(inode)));
        }
        if !held.is_empty()
            && let Some(found) = read(&process.path())
        {
            for inode in held {
                all.entry(inode).or_default().push(found.clone());
            }
        }
    }
    all
}

/// `socket:[123]`
fn inode(link: &str) -> Option<u32> {
    link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

fn read(folder: &Path) -> Option<Process> {
    let read = |name: &str| fs::read_to_string(folder.join(name)).ok();
    let stat = read("stat")?;
    Some(Process {
        pid: folder.file_name()?.to_str()?.parse().ok()?,
        name: read("comm")?.trim().to_owned(),
        arguments: read("cmdline")?.split('\0').map(str::to_owned).filter(|word| !word.is_empty()).collect(),
        is_stopped: is_stopped(&stat),
    })
}

/// The state stands behind the name in brackets, which can hold anything (proc(5)).
fn is_stopped(stat: &str) -> bool {
    let state = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().next());
    matches!(state, Some("T" | "t"))
}

/// The innermost service of `0::/system.slice/x.service`, and of what is below it.
fn unit(cgroup: &str) -> Option<String> {
    let paths = cgroup.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    let mut services = paths
        .flat_map(|path| path.rsplit('/'))
        .filter(|part| part.ends_with(".service") && !part.starts_with("user@"));
    services.next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_and_states() {
        assert_eq!(inode("socket:[4711]"), Some(4711));
        assert_eq!(inode("pipe:[4711]"), None);
        assert!(is_stopped("7 (a) b) T 1 7 7 0"));
        assert!(!is_stopped("7 (T) S 1 7 7 0"));
    }

    #[test]
    fn units() {
        assert_eq!(unit("0::/system.slice/mirror-agent.service\n").as_deref(), Some("mirror-agent.service"));
        assert_eq!(unit("0::/user.slice/user-0.slice/user@0.service/app.slice/x.scope\n"), None);
        assert_eq!(unit("0::/\n"), None);
    }

    #[test]
    fn proxies_are_known_by_their_program() {
        let process = |name: &str, line: &str| Process {
            pid: 7,
            name: name.into(),
            arguments: line.split(' ').map(str::to_owned).collect(),
            is_stopped: false,
        };
        let proxy = process("docker-proxy", "/usr/bin/docker-proxy -proto udp -container-ip 172.17.0.2");
        assert!(proxy.is_userland_proxy());
        assert_eq!(proxy.argument("-container-ip"), Some("172.17.0.2"));
        assert_eq!(proxy.argument("-container-port"), None);
        assert!(!process("zeek", "/opt/zeek/bin/zeek -i eth0").is_userland_proxy());
    }
}

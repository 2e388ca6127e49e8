//! A test host: a network namespace with a name of its own, removed when its guard is dropped.

use std::{
    ffi::OsStr,
    fs::{self, File},
    os::fd::AsRawFd as _,
    process::Command,
    sync::{
        Once,
        atomic::{AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
};

use crate::command;

/// Where `ip netns` keeps its namespaces.
const NAMESPACES: &str = "/run/netns";

/// A host. Others see it only through the links that a test makes.
///
/// IPv6 is off unless asked for, because its neighbour and router discovery would be frames that no test
/// sent.
#[derive(Debug)]
pub struct Host {
    name: String,
}

impl Host {
    /// A host with IPv4 only. `role` is for people who look at `ip netns list`.
    ///
    /// # Panics
    /// Where the namespace cannot be made: most often because this is not root.
    #[must_use]
    pub fn new(role: &str) -> Self {
        let host = Self::bare(role);
        for scope in ["all", "default", "lo"] {
            host.set_sysctl(&format!("net/ipv6/conf/{scope}/disable_ipv6"), "1");
        }
        host
    }

    /// A host with IPv6 too: no duplicate-address detection, no router solicitation.
    ///
    /// # Panics
    /// As [`Host::new`].
    #[must_use]
    pub fn with_ipv6(role: &str) -> Self {
        let host = Self::bare(role);
        for (key, value) in
            [("accept_dad", "0"), ("dad_transmits", "0"), ("router_solicitations", "0"), ("accept_ra", "0")]
        {
            host.set_sysctl(&format!("net/ipv6/conf/default/{key}"), value);
        }
        host
    }

    fn bare(role: &str) -> Self {
        static SWEEP: Once = Once::new();
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        SWEEP.call_once(sweep);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("mt-{}-{number}-{role}", std::process::id());
        command::run(Command::new("ip").args(["netns", "add", &name]));
        let host = Self { name };
        host.ip("link set lo up");
        host
    }

    /// The namespace's name, as `ip netns` knows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its namespace, to be entered by what cannot be started by [`Host::command`].
    ///
    /// # Panics
    /// Where it is gone.
    #[must_use]
    pub fn open(&self) -> File {
        let path = format!("{NAMESPACES}/{}", self.name);
        File::open(&path).unwrap_or_else(|error| panic!("cannot open {path}: {error}"))
    }

    /// A command that will run in this host. It becomes `program` by exec, so its process id is the
    /// program's.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Runs a command line, split at spaces, in this host; gives what it printed.
    ///
    /// # Panics
    /// Where it fails.
    pub fn run(&self, line: &str) -> String {
        let mut words = line.split_whitespace();
        let program = words.next().expect("an empty command line");
        command::run(self.command(program).args(words))
    }

    /// `ip -n HOST ...`, split at spaces.
    ///
    /// # Panics
    /// Where it fails.
    pub fn ip(&self, line: &str) -> String {
        command::run(Command::new("ip").args(["-n", &self.name]).args(line.split_whitespace()))
    }

    /// Starts a thread that lives in this host. It is never used for anything else afterwards.
    ///
    /// # Panics
    /// Where the thread cannot be started or cannot enter the namespace.
    pub fn thread<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let namespace = self.name.clone();
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                enter(&namespace);
                work()
            })
            .expect("cannot start a thread")
    }

    /// Runs `work` in this host and gives its result.
    ///
    /// # Panics
    /// Where `work` panics.
    pub fn within<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        match self.thread("within", work).join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Writes a setting below /proc/sys; `key` with slashes.
    ///
    /// # Panics
    /// Where the setting is not there or refuses the value.
    pub fn set_sysctl(&self, key: &str, value: &str) {
        let path = format!("/proc/sys/{key}");
        let value = value.to_owned();
        // /proc/sys/net shows the namespace of the thread that opens it.
        self.within(move || fs::write(&path, value).unwrap_or_else(|error| panic!("{path}: {error}")));
    }

    /// The number of an interface's counter below /sys/class/net, by `ip -s -j link`.
    ///
    /// # Panics
    /// Where there is no such interface or counter.
    #[must_use]
    pub fn link_counter(&self, iface: &str, side: &str, counter: &str) -> u64 {
        let links: serde_json::Value =
            serde_json::from_str(&self.ip(&format!("-s -j link show {iface}"))).expect("ip -j");
        links[0]["stats64"][side][counter].as_u64().expect("no such counter")
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).output();
    }
}

/// Moves the calling thread, and no other, into a namespace.
fn enter(namespace: &str) {
    let path = format!("{NAMESPACES}/{namespace}");
    let file = File::open(&path).unwrap_or_else(|error| panic!("cannot open {path}: {error}"));
    // SAFETY: `file` is an open descriptor for the length of the call, which touches no memory.
    let result = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
    assert_eq!(result, 0, "cannot enter {path}: {}", std::io::Error::last_os_error());
}

/// Removes what test processes left that ended without their guards (SIGKILL): namespaces, with the
/// programs still in them, and scratch folders. The process id in the name tells whose they were.
fn sweep() {
    for entry in fs::read_dir(NAMESPACES).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !is_orphan(&name) {
            continue;
        }
        if let Ok(output) = Command::new("ip").args(["netns", "pids", &name]).output() {
            for pid in String::from_utf8_lossy(&output.stdout).lines().filter_map(|line| line.parse().ok()) {
                // SAFETY: kill touches no memory. The process lives in a namespace that one of these tests
                // made, so it is one that the dead test started.
                unsafe { libc::kill(pid, libc::SIGKILL) };
            }
        }
        let _ = Command::new("ip").args(["netns", "del", &name]).output();
    }
    for entry in fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        if is_orphan(&entry.file_name().to_string_lossy()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Whether `name` is `mt-PID-...` and no process has that id.
fn is_orphan(name: &str) -> bool {
    name.strip_prefix("mt-")
        .and_then(|rest| rest.split('-').next())
        .and_then(|pid| pid.parse::<u32>().ok())
        .is_some_and(|pid| !fs::exists(format!("/proc/{pid}")).unwrap_or(true))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock;

    #[test]
    fn host_is_removed_when_a_test_panics() {
        let _turn = lock::shared();
        let mut name = String::new();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let host = Host::new("panics");
            name = host.name().to_owned();
            assert!(fs::exists(format!("{NAMESPACES}/{name}")).unwrap());
            panic!("as a failing test does");
        }));
        assert!(result.is_err());
        assert!(!fs::exists(format!("{NAMESPACES}/{name}")).unwrap(), "{name} is still there");
    }

    #[test]
    fn host_of_a_dead_process_is_swept_with_its_programs() {
        let _turn = lock::shared();
        // A process that is gone by the time its id is used.
        let mut dead = Command::new("true").spawn().unwrap();
        let pid = dead.id();
        dead.wait().unwrap();
        let name = format!("mt-{pid}-0-left");
        command::run(Command::new("ip").args(["netns", "add", &name]));
        let mut left = Command::new("ip").args(["netns", "exec", &name, "sleep", "60"]).spawn().unwrap();
        let own = Host::new("own");
        std::thread::sleep(std::time::Duration::from_millis(100));
        sweep();
        assert!(!fs::exists(format!("{NAMESPACES}/{name}")).unwrap(), "{name} is still there");
        assert!(fs::exists(format!("{NAMESPACES}/{}", own.name())).unwrap(), "a live test's host is gone");
        assert!(!left.wait().unwrap().success(), "its program was not ended");
    }

    #[test]
    fn threads_and_commands_see_their_own_host_only() {
        let _turn = lock::shared();
        let (left, right) = (Host::new("left"), Host::new("right"));
        crate::link::veth(&left, "only-left", &right, "only-right");
        assert!(left.run("ip -o link").contains("only-left"));
        assert!(!right.run("ip -o link").contains("only-left"));
        let inside = left.within(|| fs::read_to_string("/proc/thread-self/net/dev").unwrap());
        assert!(inside.contains("only-left"));
        let outside = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
        assert!(!outside.contains("only-left"), "the test's own thread has moved");
    }
}

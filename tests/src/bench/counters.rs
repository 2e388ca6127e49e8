//! What a host has counted: frames and bytes of an interface, fragments of IPv4. Read without a process, so
//! that reading takes nothing from what is measured.

use std::{
    fs::File,
    ops::Sub,
    os::unix::fs::FileExt as _,
    time::{Duration, Instant},
};

use super::interrupt;
use crate::host::Host;

/// How long nothing may come until everything has.
const QUIET: Duration = Duration::from_millis(60);
/// Longest wait for everything to have come.
const SETTLE: Duration = Duration::from_secs(3);

/// What an interface has received.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Count {
    pub frames: u64,
    pub bytes: u64,
}

impl Sub for Count {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self { frames: self.frames - earlier.frames, bytes: self.bytes - earlier.bytes }
    }
}

/// Counters of a host, read from anywhere.
#[derive(Debug)]
pub struct Counters {
    iface: String,
    /// /proc/net files show the namespace of the thread that opened them.
    devices: File,
    protocols: File,
}

impl Counters {
    /// Those of `host` and its interface `iface`.
    ///
    /// # Panics
    /// Where /proc is not mounted.
    #[must_use]
    pub fn of(host: &Host, iface: &str) -> Self {
        let open = |path: &'static str| {
            host.within(move || File::open(path).unwrap_or_else(|error| panic!("{path}: {error}")))
        };
        Self {
            iface: format!("{iface}:"),
            devices: open("/proc/thread-self/net/dev"),
            protocols: open("/proc/thread-self/net/snmp"),
        }
    }

    /// What the interface has received.
    ///
    /// # Panics
    /// Where it is gone.
    #[must_use]
    pub fn received(&self) -> Count {
        let text = read(&self.devices);
        let line = text.lines().find_map(|line| line.trim_start().strip_prefix(&*self.iface));
        let mut fields = line.expect("no such interface").split_whitespace().map(number);
        let (bytes, frames) = (fields.next(), fields.next());
        Count { frames: frames.expect("frames"), bytes: bytes.expect("bytes") }
    }

    /// How many IPv4 fragments behind a first one the host has made.
    ///
    /// # Panics
    /// Where the kernel does not say.
    #[must_use]
    pub fn later_fragments(&self) -> u64 {
        let text = read(&self.protocols);
        let mut lines = text.lines().filter_map(|line| line.strip_prefix("Ip: "));
        let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
        let value = |wanted| {
            let mut pairs = names.split_whitespace().zip(values.split_whitespace());
            number(pairs.find(|(name, _)| *name == wanted).expect("fragments").1)
        };
        value("FragCreates") - value("FragOKs")
    }

    /// Waits until `frames` more than `before` have come, or nothing comes any more; gives what has.
    #[must_use]
    pub fn settle(&self, before: Count, frames: u64) -> Count {
        let end = Instant::now() + SETTLE;
        let mut last = (Instant::now(), Count::default());
        loop {
            let now = Instant::now();
            let came = self.received() - before;
            if came != last.1 {
                last = (now, came);
            }
            if came.frames >= frames || now > end || now - last.0 > QUIET {
                return came;
            }
            interrupt::sleep(Duration::from_millis(2));
        }
    }
}

fn read(file: &File) -> String {
    let mut bytes = vec![0; 1 << 14];
    let len = file.read_at(&mut bytes, 0).expect("cannot read counters");
    bytes.truncate(len);
    String::from_utf8(bytes).expect("counters")
}

fn number(text: &str) -> u64 {
    text.parse().expect("a number")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{generator::Generator, lab::Lab, lock};

    #[test]
    fn frames_and_bytes_of_another_host_are_counted() {
        let _turn = lock::shared();
        let lab = Lab::new();
        let counters = Counters::of(&lab.router, "eth0");
        let before = counters.received();
        let _ = Generator::new("eth0").send_frames(&lab.client, vec![vec![2; 100]; 7]);
        assert_eq!(counters.settle(before, 7), Count { frames: 7, bytes: 700 });
        let fragments = counters.later_fragments();
        // 3,008 bytes of ICMP: three fragments there, and three back.
        lab.client.run("ping -q -c 1 -s 3000 10.10.0.1");
        assert_eq!(counters.later_fragments(), fragments + 2);
    }
}

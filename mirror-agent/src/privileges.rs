//! What the process may do, checked before anything is touched.

use std::{fs, io};

use anyhow::{Context as _, Result, bail};

const CAP_NET_ADMIN: u8 = 12;
const CAP_NET_RAW: u8 = 13;
const CAP_SYS_ADMIN: u8 = 21;
const CAP_PERFMON: u8 = 38;
const CAP_BPF: u8 = 39;

/// What the agent needs a capability for, from linux/capability.h.
struct Need {
    capability: u8,
    name: &'static str,
    purpose: &'static str,
}

const LIVE: [Need; 3] = [
    Need { capability: CAP_BPF, name: "CAP_BPF", purpose: "to load its programs" },
    Need { capability: CAP_PERFMON, name: "CAP_PERFMON", purpose: "to have them read packets" },
    Need { capability: CAP_NET_ADMIN, name: "CAP_NET_ADMIN", purpose: "to attach them" },
];
const SEND: Need =
    Need { capability: CAP_NET_RAW, name: "CAP_NET_RAW", purpose: "to send from any source port" };

/// Checks that traffic can be seen if `is_live`, and sent if `sends`.
///
/// # Errors
///
/// Names the capabilities that are missing and what each is for.
pub fn require(is_live: bool, sends: bool) -> Result<()> {
    let status = fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .context("/proc/self/status has no CapEff line")?;
    let missing = missing(effective, is_live, sends);
    if missing.is_empty() {
        return Ok(());
    }
    let list: Vec<_> = missing.iter().map(|need| format!("{} {}", need.name, need.purpose)).collect();
    bail!("missing {}: run as root, or grant what is missing", list.join(", "))
}

fn missing(effective: u64, is_live: bool, sends: bool) -> Vec<Need> {
    let has = |capability: u8| effective & (1 << capability) != 0;
    LIVE.into_iter()
        .filter(|_| is_live)
        .chain(sends.then_some(SEND))
        // The kernel takes CAP_SYS_ADMIN for the two that were split off from it in Linux 5.8.
        .filter(|need| {
            !(has(need.capability) || matches!(need.capability, CAP_BPF | CAP_PERFMON) && has(CAP_SYS_ADMIN))
        })
        .collect()
}

/// Takes all capabilities from the calling thread, for good: from a thread that talks to others and needs none.
///
/// # Errors
///
/// What the kernel says.
pub fn drop_of_thread() -> io::Result<()> {
    /// `_LINUX_CAPABILITY_VERSION_3` of linux/capability.h, and its two structs.
    const VERSION: u32 = 0x2008_0522;
    let header = [VERSION, 0];
    let none = [[0_u32; 3]; 2];
    // SAFETY: both calls read what they are given, which is of the length that the version asks for; process number 0 is
    // the calling thread.
    let result = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr())
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(effective: u64, sends: bool) -> Vec<&'static str> {
        missing(effective, true, sends).iter().map(|need| need.name).collect()
    }

    #[test]
    fn names_what_is_missing() {
        assert_eq!(names(u64::MAX, true), [""; 0]);
        assert_eq!(names(0, true), ["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN", "CAP_NET_RAW"]);
        assert_eq!(names(0, false), ["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN"]);
        assert!(missing(0, false, false).is_empty(), "from a capture to a capture");
        assert_eq!(missing(0, false, true).len(), 1, "a replay only sends");
        assert_eq!(names(1 << CAP_SYS_ADMIN | 1 << CAP_NET_ADMIN, true), ["CAP_NET_RAW"]);
    }
}

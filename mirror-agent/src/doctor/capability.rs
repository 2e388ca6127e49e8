//! What this process may do.

use std::fs;

use anyhow::{Context as _, Result};

/// Attach programs, ask for the filters of others, change the network.
pub const NET_ADMIN: u8 = 12;
/// Send packets with any header.
pub const NET_RAW: u8 = 13;
/// What was not split off from it.
pub const SYS_ADMIN: u8 = 21;
/// Take precedence over other programs.
pub const SYS_NICE: u8 = 23;
/// Have programs read packets by their address.
pub const PERFMON: u8 = 38;
/// Load programs.
pub const BPF: u8 = 39;

/// The effective capabilities of a process, a bit each; numbers of linux/capability.h.
///
/// # Errors
///
/// There is no such process, or no /proc.
pub fn effective(pid: &str) -> Result<u64> {
    set(pid, "CapEff:")
}

/// Those that it may get at all, by a file's.
///
/// # Errors
///
/// As [`effective`].
pub fn bounding(pid: &str) -> Result<u64> {
    set(pid, "CapBnd:")
}

fn set(pid: &str, key: &str) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let mask = status.lines().find_map(|line| line.strip_prefix(key));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .with_context(|| format!("{path} has no line {key}"))
}

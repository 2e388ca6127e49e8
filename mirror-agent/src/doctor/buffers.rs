//! How large the buffers of sockets should be, and the commands that make them so.

use super::{finding::Finding, sysctl};

/// A sensor that asks for much, such as 16 MiB, is to get it.
pub const RMEM_MAX: u64 = 16 << 20;

/// For a sensor that asks for nothing. The kernel counts 2,304 bytes and more for a datagram of 1,500: its usual 212,992
/// are 92 of them, which is what 1 Gbit/s brings in a millisecond.
pub const RMEM_DEFAULT: u64 = 4 << 20;

/// What the agent asks for: `SEND_BUFFER` of output/sockopt.rs.
pub const WMEM_MAX: u64 = 8 << 20;

/// For programs that ask for nothing.
const WMEM_DEFAULT: u64 = 4 << 20;

/// Whose buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Of sockets that receive, such as a sensor's.
    Receive,
    /// Of sockets that send.
    Send,
}

impl Side {
    /// Settings, and what is enough.
    const fn settings(self) -> [(&'static str, u64); 2] {
        match self {
            Self::Receive => [("net.core.rmem_max", RMEM_MAX), ("net.core.rmem_default", RMEM_DEFAULT)],
            Self::Send => [("net.core.wmem_max", WMEM_MAX), ("net.core.wmem_default", WMEM_DEFAULT)],
        }
    }
}

/// Adds the commands that raise the limits, where what there is has proved too small.
#[must_use]
pub fn raise(finding: Finding, side: Side) -> Finding {
    let raised = |(key, enough): (&'static str, u64)| {
        let value = sysctl::number(key).ok()?;
        Some((key, value, enough.max(value * 2)))
    };
    let settings: Vec<_> = side.settings().into_iter().filter_map(raised).collect();
    // What is already to be run beside them is not safe.
    let may_be_safe = finding.fix.is_empty() && !settings.is_empty();
    let finding = sysctl::mend(finding, &settings);
    Finding { is_safe: finding.is_safe && may_be_safe, ..finding }
}

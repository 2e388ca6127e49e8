//! The commands that give sockets larger buffers.

use super::{finding::Finding, sysctl};

/// Whose buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Of sockets that receive, such as a sensor's.
    Receive,
    /// Of sockets that send.
    Send,
}

impl Side {
    /// Settings, and what the check `socket-buffers` takes for enough.
    const fn settings(self) -> [(&'static str, u64); 2] {
        match self {
            Self::Receive => [("net.core.rmem_max", 16 << 20), ("net.core.rmem_default", 4 << 20)],
            Self::Send => [("net.core.wmem_max", 8 << 20), ("net.core.wmem_default", 4 << 20)],
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

//! How many packets may wait for a processor's softirq: those of `lo`, of veth, and of RPS.

use std::io;

use anyhow::Result;

use crate::doctor::{check::Check, finding::Finding, host::Host, sysctl};

/// See the module.
pub const CHECK: Check = Check {
    id: "netdev-backlog",
    title: "packets that may wait for a processor (net.core.netdev_max_backlog)",
    look,
    counters: None,
};

/// The setting. The kernel shows it in the host's own network namespace only.
pub const KEY: &str = "net.core.netdev_max_backlog";

/// The kernel's default is 1000, which a burst of a millisecond fills.
pub const ENOUGH: u64 = 8192;

const WHY: &str = "what comes over lo, veth or RPS waits there, the mirrored traffic and the mirror alike: a burst that finds \
                   no room is dropped (softnet_stat), before a hook or the sensor sees it";

fn look(_: &Host) -> Result<Vec<Finding>> {
    let backlog = match sysctl::of_host(KEY) {
        Ok(backlog) => backlog,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![sysctl::hidden(KEY)]),
        Err(error) => return Err(error.into()),
    };
    let found = format!("{KEY} is {backlog}");
    Ok(vec![if backlog >= ENOUGH {
        Finding::ok(found)
    } else {
        sysctl::mend(Finding::warn(format!("{found}, less than {ENOUGH}"), WHY), &[(KEY, backlog, ENOUGH)])
    }])
}

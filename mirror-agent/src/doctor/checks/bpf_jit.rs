//! Whether the kernel translates programs for the processor.

use std::io;

use anyhow::Result;

use crate::doctor::{check::Check, finding::Finding, host::Host, sysctl};

/// See the module.
pub const CHECK: Check = Check {
    id: "bpf-jit",
    title: "whether kernel programs run as the processor's own code (net.core.bpf_jit_enable)",
    look,
    counters: None,
};

const KEY: &str = "net.core.bpf_jit_enable";

const WHY: &str =
    "the hooks' programs are interpreted: each mirrored frame costs its processor several times as much";

fn look(_: &Host) -> Result<Vec<Finding>> {
    let value = match sysctl::of_host(KEY) {
        Ok(value) => value,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![sysctl::hidden(KEY)]),
        Err(error) => return Err(error.into()),
    };
    let found = format!("{KEY} is {value}");
    Ok(vec![match value {
        0 => sysctl::mend(Finding::warn(found, WHY), &[(KEY, 0, 1)]),
        _ => Finding::ok(found),
    }])
}

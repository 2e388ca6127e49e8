//! What an agent that is started from here may do.

use std::{fs, os::linux::fs::MetadataExt as _};

use anyhow::{Context as _, Result};

use crate::doctor::{
    capability::{self, BPF, NET_ADMIN, NET_RAW, PERFMON, SYS_ADMIN, SYS_NICE},
    check::Check,
    finding::{Finding, Status},
    host::Host,
};

/// See the module.
pub const CHECK: Check =
    Check { id: "capabilities", title: "rights that are missing, and for what", look, counters: None };

struct Need {
    capability: u8,
    name: &'static str,
    purpose: &'static str,
    status: Status,
}

const NEEDS: [Need; 5] = [
    Need {
        capability: BPF,
        name: "CAP_BPF",
        purpose: "no program can be loaded: nothing live is mirrored",
        status: Status::Fail,
    },
    Need {
        capability: PERFMON,
        name: "CAP_PERFMON",
        purpose: "the programs may not read packets: nothing live is mirrored",
        status: Status::Fail,
    },
    Need {
        capability: NET_ADMIN,
        name: "CAP_NET_ADMIN",
        purpose: "no program can be attached: nothing live is mirrored",
        status: Status::Fail,
    },
    Need {
        capability: NET_RAW,
        name: "CAP_NET_RAW",
        purpose: "datagrams leave by UDP sockets, from few source ports: slower, and spread less well at a sensor",
        status: Status::Warn,
    },
    Need {
        capability: SYS_NICE,
        name: "CAP_SYS_NICE",
        purpose: "sending threads take no precedence: on a busy host a ring fills while they wait",
        status: Status::Note,
    },
];

fn look(host: &Host) -> Result<Vec<Finding>> {
    let bounds = capability::bounding("self")?;
    let missing: Vec<&Need> = NEEDS.iter().filter(|need| !host.may(need.capability)).collect();
    if missing.is_empty() {
        return Ok(vec![Finding::ok(
            "all that a mirror needs: CAP_BPF CAP_PERFMON CAP_NET_ADMIN CAP_NET_RAW CAP_SYS_NICE",
        )]);
    }
    let program = std::env::current_exe().context("cannot tell where this program is")?;
    let program = program.display().to_string();
    // No file can give what the bounding set has not.
    let can_get = |need: &Need| {
        let has = |capability: u8| bounds & (1 << capability) != 0;
        has(need.capability) || matches!(need.capability, BPF | PERFMON) && has(SYS_ADMIN)
    };
    let list: Vec<String> =
        NEEDS.iter().filter(|need| can_get(need)).map(|need| need.name.to_lowercase()).collect();
    let may_be_given = format!("setcap {}+ep {program}", list.join(","));
    // Whose file it is, is as good as the right itself: root's.
    let is_root = fs::metadata("/proc/self").is_ok_and(|process| process.st_uid() == 0);
    let mut findings: Vec<Finding> = Vec::new();
    for need in missing {
        let mut finding = Finding::new(need.status, format!("{} is missing", need.name), need.purpose);
        if !can_get(need) {
            let option = need.name.trim_start_matches("CAP_");
            finding.found += &format!(
                " and may not be given here: start this container with it (--cap-add {option}, or securityContext.capabilities.add)"
            );
        } else if !is_root && !findings.iter().any(|finding| !finding.fix.is_empty()) {
            finding = finding.mend(may_be_given.clone(), format!("setcap -r {program}"));
        } else if is_root {
            finding.found += ", though this is root: whoever started this process took it away";
        }
        findings.push(finding);
    }
    Ok(findings)
}

//! What the kernel leaves to the card. The agent makes of it what was on the wire, so little of it matters.

use std::io;

use anyhow::Result;

use crate::{
    cli::Hook,
    doctor::{
        check::Check,
        ethtool::{self, LRO, RX_VLAN, SWITCHES},
        facts::SuperFrames,
        finding::Finding,
        host::Host,
    },
    links::Link,
};

/// See the module.
pub const CHECK: Check = Check {
    id: "offloads",
    title: "what is left to the card: segmentation, checksums, tags (none of it has to be off)",
    look,
    counters: None,
};

/// Beyond this the kernel makes super-frames only where it was told to (BIG TCP).
const SUPER_FRAME_MAX: u32 = 65_536;

fn look(host: &Host) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for link in &host.mirrored {
        let name = &link.name;
        match switches(link) {
            Ok(on) => {
                let mut problems = problems(host, name, &on);
                if problems.is_empty() {
                    let on: Vec<_> = on.iter().map(|switch| switch.name).collect();
                    let list = if on.is_empty() {
                        "nothing is left to the card".into()
                    } else {
                        format!("on: {}", on.join(" "))
                    };
                    problems.push(Finding::ok(format!("{list}; none has to be off")).about(name));
                }
                findings.extend(problems);
            }
            Err(error) => findings.push(Finding::note(format!("cannot be asked: {error}"), "").about(name)),
        }
        findings.extend(big_tcp(name, host.facts(link.ifindex).super_frames));
    }
    Ok(findings)
}

fn switches(link: &Link) -> io::Result<Vec<ethtool::Switch>> {
    let mut on = Vec::new();
    for switch in SWITCHES {
        if ethtool::is_on(&link.name, switch)? {
            on.push(switch);
        }
    }
    Ok(on)
}

fn problems(host: &Host, name: &str, on: &[ethtool::Switch]) -> Vec<Finding> {
    let mut findings = Vec::new();
    if on.contains(&LRO) {
        let why = "what the card merged is cut again, but what differed between the segments (options, flags, times) is lost";
        findings.push(
            Finding::warn("LRO is on: the card merges segments for good", why)
                .about(name)
                .mend(format!("ethtool -K {name} lro off"), format!("ethtool -K {name} lro on"))
                .safe(),
        );
    }
    if host.hook == Hook::Xdp && on.contains(&RX_VLAN) {
        let why = "a VLAN tag that the card takes off is in the frame's metadata, which the XDP hook does not see: it is \
                   missing at the sensor";
        findings.push(
            Finding::warn("rxvlan is on: the card takes VLAN tags off", why)
                .about(name)
                .mend(format!("ethtool -K {name} rxvlan off"), format!("ethtool -K {name} rxvlan on"))
                .safe(),
        );
    }
    findings
}

/// Super-frames of more than 64 KiB fit into no datagram, and are not cut.
fn big_tcp(name: &str, sizes: SuperFrames) -> Option<Finding> {
    let SuperFrames { gso, gro, gso_ipv4, gro_ipv4 } = sizes;
    let all = [
        ("gso_max_size", gso),
        ("gro_max_size", gro),
        ("gso_ipv4_max_size", gso_ipv4),
        ("gro_ipv4_max_size", gro_ipv4),
    ];
    let too_big: Vec<_> = all.into_iter().filter(|(_, bytes)| *bytes > SUPER_FRAME_MAX).collect();
    if too_big.is_empty() {
        return None;
    }
    let list = |bytes: fn(u32) -> u32| {
        too_big.iter().map(|(key, size)| format!(" {key} {}", bytes(*size))).collect::<String>()
    };
    let why = "super-frames of more than 64 KiB (BIG TCP) cannot be sent in one datagram: they are left out, and counted as \
               too_big";
    let set = |list: String| format!("ip link set dev {name}{list}");
    Some(
        Finding::warn(format!("BIG TCP is on:{}", list(|size| size)), why)
            .about(name)
            .mend(set(list(|_| SUPER_FRAME_MAX)), set(list(|size| size)))
            .safe(),
    )
}

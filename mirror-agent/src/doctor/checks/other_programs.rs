//! Programs of others on the hooks of the mirrored interfaces, and whether they hide frames from the agent.

use anyhow::{Result, bail};
use mirror_common::record::Direction;
use rtnetlink::packet_route::tc::{TcAttribute, TcFilterBpfOption, TcMessage, TcOption};

use crate::{
    cli::Hook,
    doctor::{
        capability,
        check::Check,
        finding::{Finding, Status},
        host::Host,
        program::{self, Program},
    },
    kernel::{clsact, support::tcx},
    links::Link,
};

/// See the module.
pub const CHECK: Check = Check {
    id: "other-programs",
    title: "others' programs on the hooks of the mirrored interfaces, and whether they hide frames",
    look,
    counters: None,
};

fn look(host: &Host) -> Result<Vec<Finding>> {
    if !host.may(capability::NET_ADMIN) || !host.may(capability::SYS_ADMIN) {
        bail!("the kernel shows programs of others to who has CAP_NET_ADMIN and CAP_SYS_ADMIN only");
    }
    let mut findings = Vec::new();
    for link in &host.mirrored {
        let mut found = xdp(host, link);
        if host.hook == Hook::Tc {
            for direction in Direction::ALL {
                found.extend(tc(host, link, direction)?);
            }
        }
        if found.is_empty() {
            found.push(Finding::ok("nobody else's").about(&link.name));
        }
        findings.extend(found);
    }
    Ok(findings)
}

fn xdp(host: &Host, link: &Link) -> Vec<Finding> {
    let Some(id) = host.facts(link.ifindex).xdp else { return Vec::new() };
    let program = Program::find(id);
    if program.is_ours() {
        return Vec::new();
    }
    let name = &link.name;
    let found = format!("{program} on the XDP hook");
    let finding = match host.hook {
        Hook::Xdp => {
            let why = "an interface has one XDP program: the agent's has no room, and it exits with 1. --hook tc sees what this one \
                       lets pass";
            // Whoever holds a link puts nothing back.
            Finding::fail(found, why).mend(detach_xdp(link, id), "")
        }
        Hook::Tc => {
            let why = "it runs in front of the TC hooks: what it drops, sends back or redirects, the mirror does not see";
            Finding::note(found, why)
        }
    };
    vec![finding.about(name)]
}

fn detach_xdp(link: &Link, id: u32) -> String {
    match program::links_on(link.ifindex).into_iter().find(|one| one.program == id) {
        Some(on) => format!("bpftool link detach id {}", on.link),
        None => format!("ip link set dev {0} xdp off && ip link set dev {0} xdpgeneric off", link.name),
    }
}

/// A program on a TC hook, with its place.
#[derive(Debug)]
pub struct Placed {
    /// Which.
    pub program: Program,
    /// On TCX, or a filter.
    pub place: String,
    /// What takes it away.
    pub detach: String,
    /// Whether it can be told what becomes of frames: a filter that is no program of this kind cannot.
    pub ends_chain: Option<bool>,
}

/// What frames meet on a TC hook, in the order in which they do.
///
/// # Errors
///
/// What netlink says.
pub fn chain(host: &Host, link: &Link, direction: Direction) -> Result<Vec<Placed>> {
    // TCX runs in front of any filter.
    let mut chain = on_tcx(link, direction);
    chain.extend(host.wait(filters(host, link, direction, side(direction)))?);
    Ok(chain)
}

fn side(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    }
}

fn tc(host: &Host, link: &Link, direction: Direction) -> Result<Vec<Finding>> {
    let side = side(direction);
    let chain = chain(host, link, direction)?;
    let has_tcx = tcx::probe().is_ok_and(|ability| ability.is_there());
    let ours = chain.iter().position(|placed| placed.program.is_ours());
    let mut findings = Vec::new();
    for (position, placed) in chain.iter().enumerate() {
        let Placed { program, place, .. } = placed;
        if program.is_ours() {
            continue;
        }
        let found = format!("{program} on {place} ({side})");
        let is_behind = match ours {
            Some(ours) => position > ours,
            // An agent goes to the head of the chain, of TCX where there is one.
            None => has_tcx || !place.starts_with("TCX"),
        };
        let finding = if is_behind {
            let found = format!(
                "{found}, behind the agent's{}",
                if ours.is_none() { " when that comes" } else { "" }
            );
            Finding::note(found, "the mirror sees all frames before it does")
        } else {
            ahead(placed, found)
        };
        findings.push(finding.about(&link.name));
    }
    Ok(findings)
}

fn ahead(placed: &Placed, found: String) -> Finding {
    let restart = "Stopping and starting the agent puts it in front, too";
    let (status, why) = match placed.ends_chain {
        Some(true) => (
            Status::Fail,
            format!(
                "it never says 'next': whatever it lets pass ends there, and the mirror sees nothing. {restart}"
            ),
        ),
        Some(false) => (
            Status::Note,
            format!("the mirror sees the frames for which it says 'next', and those alone. {restart}"),
        ),
        None => {
            (Status::Warn, format!("where it has a verdict, the mirror does not see the frame. {restart}"))
        }
    };
    Finding::new(status, format!("{found}, in front of the agent's"), why).mend(placed.detach.clone(), "")
}

fn on_tcx(link: &Link, direction: Direction) -> Vec<Placed> {
    let links = program::links_on(link.ifindex);
    let all = tcx::on(link.ifindex, direction).unwrap_or_default();
    all.into_iter()
        .map(|on| {
            let program = Program::find(on.program);
            let by_link = links.iter().find(|one| one.link == on.link && on.link != 0);
            let side = if direction == Direction::Ingress { "tcx_ingress" } else { "tcx_egress" };
            Placed {
                ends_chain: program.says_next().map(|says| !says),
                program,
                place: "TCX".into(),
                detach: match by_link {
                    Some(by) => format!("bpftool link detach id {}", by.link),
                    None => format!("bpftool net detach {side} dev {}", link.name),
                },
            }
        })
        .collect()
}

async fn filters(host: &Host, link: &Link, direction: Direction, side: &str) -> Result<Vec<Placed>> {
    let filters = clsact::filters(host.netlink(), link.ifindex, direction).await?;
    Ok(filters.iter().filter_map(|filter| placed(filter, link, side)).collect())
}

fn placed(filter: &TcMessage, link: &Link, side: &str) -> Option<Placed> {
    let kind = filter.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Kind(kind) => Some(kind.as_str()),
        _ => None,
    })?;
    // `tc_common`: priority and protocol in one number. Handle 0 stands for all filters of the priority.
    let (priority, handle) = (filter.header.info >> 16, u32::from(filter.header.handle));
    if handle == 0 {
        return None;
    }
    let options: Vec<&TcOption> = filter
        .attributes
        .iter()
        .filter_map(|attribute| match attribute {
            TcAttribute::Options(options) => Some(options),
            _ => None,
        })
        .flatten()
        .collect();
    let id = options.iter().find_map(|option| match option {
        TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => Some(*id),
        _ => None,
    });
    let program = id.map_or_else(|| Program::unknown(&format!("a {kind} filter")), Program::find);
    let ends_chain = if id.is_some() { program.says_next().map(|says| !says) } else { None };
    // u32's handles are in three parts, and its tables are no filters.
    let handle = match kind {
        "u32" if handle & 0xfff == 0 => return None,
        "u32" => format!("{:x}:{:x}:{:x}", handle >> 20, handle >> 12 & 0xff, handle & 0xfff),
        _ => format!("{handle:#x}"),
    };
    let name = &link.name;
    Some(Placed {
        program,
        place: format!("clsact, priority {priority}"),
        detach: format!("tc filter del dev {name} {side} pref {priority} handle {handle} {kind}"),
        ends_chain,
    })
}

//! What running agents say of themselves: frames they lost, and why, rings that fill, sensors that are down.

use std::{fs, thread, time::Duration};

use anyhow::Result;
use mirror_common::record::Direction;

use crate::{
    control::folder,
    doctor::{
        check::{Check, Counter},
        finding::Finding,
        host::Host,
        next_hop, others,
        probe::running,
    },
    ledger::Ledger,
    status::Status,
};

/// See the module.
pub const CHECK: Check = Check {
    id: "agent",
    title: "what running agents say: lost frames by name, rings, sensors that are down, not ready",
    look,
    counters: Some(counters),
};

/// Between the two questions that tell what grows from what is long past.
const APART: Duration = Duration::from_millis(200);

/// Of a ring's bytes, in percent.
const NEARLY_FULL: u64 = 75;

/// A name of the ledger that stands for frames which were wanted, and did not reach a sensor.
struct Loss {
    name: &'static str,
    of: fn(&Ledger) -> u64,
    why: &'static str,
}

/// See [`Ledger`].
const LOSSES: [Loss; 4] = [
    Loss {
        name: "ring_full",
        of: |frames| frames.ring_full,
        why: "frames come faster than the agent's threads send them; what finds no room in the ring is not mirrored: give \
              it more threads (--cpu), a larger ring for bursts (--ring-size), or less to do (a filter, --snaplen, \
              --sample, --max-rate), or --mode redirect",
    },
    Loss {
        name: "send_failed",
        of: |frames| frames.send_failed,
        why: "the host refused to send what was mirrored: the errors say why (ENOBUFS: a queue is full; EPERM: a packet \
              filter; ENETUNREACH, EHOSTUNREACH: no way; EMSGSIZE: too long for the path; ENETDOWN: the interface is \
              down)",
    },
    Loss {
        name: "too_big",
        of: |frames| frames.too_big,
        why: "the datagram would be longer than the path or UDP takes, and is left out: raise the MTU of the way to the \
              sensor, or have it cut (--oversize truncate), fragmented (--oversize fragment), or shortened (--snaplen)",
    },
    Loss {
        name: "copy_failed",
        of: |frames| frames.copy_failed,
        why: "the kernel could not read a frame's bytes: memory was short, or a driver hands on what has none (device \
              memory)",
    },
];

fn look(host: &Host) -> Result<Vec<Finding>> {
    let pids: Vec<u32> = host.agents.iter().map(|agent| agent.pid).collect();
    let mut all = elsewhere(&pids);
    if pids.is_empty() {
        return Ok(all);
    }
    let before: Vec<_> = pids.iter().map(|pid| running::ask(*pid)).collect();
    thread::sleep(APART);
    for (pid, before) in pids.into_iter().zip(before) {
        let about = format!("agent {pid}");
        let Some((before, now)) = before.zip(running::ask(pid)) else {
            let found = "it cannot be asked: it has no control socket, or this process may not use it";
            all.push(Finding::note(found, "what it lost and why, it says in its report only").about(about));
            continue;
        };
        all.extend(tell(host, pid, &before, &now)?.into_iter().map(|finding| finding.about(&about)));
    }
    Ok(all)
}

/// Agents that can be asked, and mirror interfaces of another network namespace.
fn elsewhere(here: &[u32]) -> Vec<Finding> {
    let own = fs::read_link("/proc/self/ns/net").ok();
    let others = folder::sockets().into_iter().map(|(pid, _)| pid).filter(|pid| !here.contains(pid));
    let is_elsewhere = |pid: &u32| {
        fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|namespace| own.as_ref() != Some(&namespace))
    };
    others
        .filter(is_elsewhere)
        .map(|pid| {
            let found =
                format!("it runs in another network namespace: nsenter -t {pid} -n mirror-agent doctor");
            let why = "its interfaces, and its way to the sensor, are that namespace's";
            Finding::note(found, why).about(format!("agent {pid}"))
        })
        .collect()
}

fn tell(host: &Host, pid: u32, before: &Status, now: &Status) -> Result<Vec<Finding>> {
    let mut all = Vec::new();
    let (frames, old) = (&now.report.frames, &before.report.frames);
    for Loss { name, of, why } in &LOSSES {
        let (total, growth) = (of(frames), of(frames).saturating_sub(of(old)));
        let errors = if *name == "send_failed" { errors(now) } else { String::new() };
        if growth > 0 {
            let rate = growth as f64 / APART.as_secs_f64();
            let found =
                format!("{name} grows by {rate:.0} a second, {total} of {} so far{errors}", frames.seen);
            all.push(mend(host, Finding::fail(found, *why), name, now)?);
        } else if total > 0 {
            all.push(Finding::note(format!("{total} {name} of {}, none now{errors}", frames.seen), *why));
        }
    }
    for ring in &now.rings {
        let percent = ring.used * 100 / ring.size.max(1);
        if percent >= NEARLY_FULL {
            let found = format!("ring {} is {percent} % full", ring.index);
            all.push(Finding::warn(found, LOSSES[0].why));
        }
    }
    for destination in now.destinations.iter().filter(|destination| destination.is_down) {
        let name = destination.name.as_ref().unwrap_or(&destination.address);
        let why =
            "its connections go to the other sensors, or are lost where there is none: see sensor-answers";
        all.push(Finding::fail(format!("{name} is down"), why));
    }
    if !now.ready {
        let found = format!("it is not ready: {}", now.not_ready.join("; "));
        all.push(Finding::warn(found, "it does not mirror all that it was told to"));
    }
    if now.version != env!("CARGO_PKG_VERSION") {
        let found = format!("it is version {}, and this is {}", now.version, env!("CARGO_PKG_VERSION"));
        let finding =
            Finding::note(found, "the agent that runs is not the one that is installed: start it again");
        all.push(running::restart(finding, pid, now));
    }
    if all.is_empty() {
        all.push(Finding::ok(format!(
            "it has seen {} frames, sent {}, and lost none",
            frames.seen, frames.sent
        )));
    }
    Ok(all)
}

/// Errno names and how often they came.
fn errors(status: &Status) -> String {
    let errors: Vec<_> =
        status.report.send_errors.iter().map(|(name, count)| format!("{name} {count}")).collect();
    if errors.is_empty() { String::new() } else { format!(" ({})", errors.join(", ")) }
}

/// Adds commands, where the reason is a setting of this host's, or of the agent's.
fn mend(host: &Host, finding: Finding, name: &str, status: &Status) -> Result<Finding> {
    Ok(match name {
        "ring_full" => {
            let size = status.rings.iter().map(|ring| ring.size).max().unwrap_or(16 << 20);
            let larger = (size * 4).min(1 << 30);
            running::restart_with(finding, status, "--ring-size", &larger.to_string())
        }
        "too_big" => running::restart_with(finding, status, "--oversize", "fragment"),
        "send_failed" => {
            let mut finding = finding;
            for sensor in host.addresses() {
                if let next_hop::Way::Through { link, .. } = next_hop::find(host, sensor.ip())? {
                    if !link.has_carrier {
                        finding = next_hop::up(finding, &link);
                    }
                    let on_hook = others::on_hook(host, &link, Direction::Egress)?;
                    finding = others::take_away(finding, on_hook);
                }
            }
            finding
        }
        _ => finding,
    })
}

fn counters(host: &Host) -> Result<Vec<Counter>> {
    let mut all = Vec::new();
    for agent in &host.agents {
        let Some(status) = running::ask(agent.pid) else { continue };
        for Loss { name, of, why } in LOSSES {
            let name = format!("agent {} {name}", agent.pid);
            all.push(Counter { name, value: of(&status.report.frames), why });
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_a_loss_is_told() {
        let ledger = Ledger { ring_full: 1, copy_failed: 2, too_big: 4, send_failed: 8, ..Ledger::default() };
        let sum: u64 = LOSSES.iter().map(|loss| (loss.of)(&ledger)).sum();
        assert_eq!(sum, ledger.lost());
    }
}

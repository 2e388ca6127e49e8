//! Processors: how many the agent may use, whose threads share one, and what a cgroup leaves of them.

use std::{collections::BTreeMap, fs};

use anyhow::Result;

use crate::{
    affinity,
    doctor::{
        cgroup,
        check::{Check, Counter},
        finding::Finding,
        host::Host,
    },
};

/// See the module.
pub const CHECK: Check = Check {
    id: "processors",
    title: "processors that may be used, what a cgroup leaves of them, and sending threads that share one",
    look,
    counters: Some(counters),
};

fn look(host: &Host) -> Result<Vec<Finding>> {
    let mut findings = vec![allowed()];
    findings.extend(isolated(host));
    findings.extend(shared(host));
    findings.extend(quotas(host));
    Ok(findings)
}

/// Numbers of a list such as `0,2-3`; empty where it is none.
pub(super) fn parse_list(list: &str) -> Vec<usize> {
    let mut numbers = Vec::new();
    for part in list.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        match (first.parse::<usize>(), last.parse::<usize>()) {
            (Ok(first), Ok(last)) => numbers.extend(first..=last),
            _ => return Vec::new(),
        }
    }
    numbers
}

fn list(path: &str) -> Vec<usize> {
    parse_list(fs::read_to_string(path).unwrap_or_default().trim())
}

fn join(processors: &[usize]) -> String {
    processors.iter().map(usize::to_string).collect::<Vec<_>>().join(",")
}

/// What an agent that is started from here may use.
fn allowed() -> Finding {
    let online = list("/sys/devices/system/cpu/online");
    let allowed = affinity::allowed().unwrap_or_default();
    let found = format!("may use {} of {} processors", allowed.len(), online.len().max(allowed.len()));
    let why = "each sending thread has a processor of its own, and the mirrored traffic wants others: with one for all of it \
               the ring fills under load";
    match (allowed.len(), online.len()) {
        (2.., _) => Finding::ok(found),
        (_, 0..2) => Finding::note(found, why),
        // Of a shell, and what it starts from then on. A cpuset (cgroup) bounds it.
        _ => Finding::warn(found, why)
            .mend(format!("taskset -cp {} $$", join(&online)), format!("taskset -cp {} $$", join(&allowed))),
    }
}

/// Processors that the scheduler leaves alone are used by who asks for them.
fn isolated(host: &Host) -> Option<Finding> {
    let isolated = list("/sys/devices/system/cpu/isolated");
    if isolated.is_empty() {
        return None;
    }
    let list = join(&isolated);
    let used = host.agents.iter().any(|agent| {
        agent.args.cpu.as_deref().is_some_and(|cpus| cpus.iter().any(|cpu| isolated.contains(cpu)))
    });
    Some(if used {
        Finding::ok(format!("processors {list} are isolated, and the agent uses some of them"))
    } else {
        Finding::note(
            format!("processors {list} are isolated (isolcpus)"),
            format!("nothing else disturbs a sending thread there: --cpu {list}"),
        )
    })
}

/// A sending thread of an agent.
struct Sender {
    pid: u32,
    tid: u32,
    name: String,
    allowed: Vec<usize>,
}

fn senders(host: &Host) -> Vec<Sender> {
    let mut all = Vec::new();
    for agent in &host.agents {
        let folder = format!("/proc/{}/task", agent.pid);
        for task in fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(status) = fs::read_to_string(task.path().join("status")) else { continue };
            let value = |key: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(key));
                line.unwrap_or_default().trim().to_owned()
            };
            // mirror-0 and so on: `worker.rs`.
            let name = value("Name:");
            let is_sender = name.strip_prefix("mirror-").is_some_and(|rest| rest.parse::<u32>().is_ok());
            let (true, Ok(tid)) = (is_sender, value("Pid:").parse()) else { continue };
            all.push(Sender { pid: agent.pid, tid, name, allowed: parse_list(&value("Cpus_allowed_list:")) });
        }
    }
    all.sort_by_key(|sender| sender.tid);
    all
}

/// Sending threads that are kept on the same processor.
fn shared(host: &Host) -> Vec<Finding> {
    let online = affinity::allowed().unwrap_or_default();
    let mut on: BTreeMap<usize, Vec<Sender>> = BTreeMap::new();
    for sender in senders(host) {
        if let [processor] = sender.allowed[..] {
            on.entry(processor).or_default().push(sender);
        }
    }
    let mut free: Vec<usize> = online.into_iter().filter(|processor| !on.contains_key(processor)).collect();
    let mut findings = Vec::new();
    for (processor, senders) in on {
        let names: Vec<_> = senders.iter().map(|one| format!("{} of pid {}", one.name, one.pid)).collect();
        if senders.len() == 1 {
            findings.push(Finding::ok(format!("{} has processor {processor} for itself", names[0])));
            continue;
        }
        let why = "each of them gets a part of the processor's time, and a ring fills while its thread waits";
        let mut finding = Finding::warn(
            format!("{} sending threads share processor {processor}: {}", senders.len(), names.join(", ")),
            why,
        );
        for sender in &senders[1..] {
            // From the last, as the agent chooses them.
            let Some(other) = free.pop() else { break };
            let move_to = |processor| format!("taskset -cp {processor} {}", sender.tid);
            finding = finding.mend(move_to(other), move_to(processor));
        }
        findings.push(finding);
    }
    findings
}

/// Processes whose cgroups matter: running agents, else this one.
fn processes(host: &Host) -> Vec<String> {
    if host.agents.is_empty() {
        return vec!["self".into()];
    }
    host.agents.iter().map(|agent| agent.pid.to_string()).collect()
}

fn quotas(host: &Host) -> Vec<Finding> {
    let mut findings: Vec<Finding> = Vec::new();
    for process in processes(host) {
        for quota in cgroup::quotas(&process) {
            let share = quota.quota_us as f64 / quota.period_us as f64;
            let found = format!(
                "the cgroup {} may use {share:.2} processors ({} of each {} us)",
                quota.file.display(),
                quota.quota_us,
                quota.period_us
            );
            let why = "whoever has used up the share stands still for the rest of the period: a ring fills meanwhile, however \
                       idle the host is";
            let set = |value: &str| format!("echo {value} > {}", quota.file.display());
            let finding = Finding::warn(found, why).mend(set(quota.unlimited()), set(&quota.as_written()));
            if !findings.contains(&finding) {
                findings.push(finding);
            }
        }
    }
    findings
}

fn counters(host: &Host) -> Result<Vec<Counter>> {
    let mut counters = Vec::new();
    for process in processes(host) {
        for quota in cgroup::quotas(&process) {
            if let Some(value) = quota.times_throttled() {
                let name = format!("{} nr_throttled", quota.folder().display());
                let why = "the agent stood still because its cgroup had used up its share of the processors";
                counters.push(Counter { name, value, why });
            }
        }
    }
    Ok(counters)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        assert_eq!(parse_list("0,2-4"), [0, 2, 3, 4]);
        assert_eq!(parse_list(""), [0; 0]);
        assert_eq!(parse_list("x"), [0; 0]);
    }
}

//! Receive packet steering: which processors handle what `lo`, a veth or a card with one queue receives.

use std::{fs, io, path::PathBuf};

use anyhow::Result;

use crate::{
    affinity,
    doctor::{check::Check, facts::Facts, finding::Finding, host::Host},
    links::Link,
};

/// See the module.
pub const CHECK: Check = Check {
    id: "rps",
    title: "processors that handle what lo, a veth, or a card with one queue receives (rps_cpus)",
    look,
    counters: None,
};

const WHY: &str = "one processor does all the receiving: on lo and on a veth the one that sends, which is the agent's own or \
                   the mirrored program's. Steering spreads connections, and keeps each of them, mirrored or not, on one \
                   processor";

fn look(host: &Host) -> Result<Vec<Finding>> {
    let processors = online();
    let mut findings = Vec::new();
    // What comes in by the interface towards a sensor is nothing of a mirror's; by lo it is what the sensor receives.
    let is_lo_used = host.has_local_sensor()?;
    let lo = host.all.iter().filter(|link| link.is_loopback && is_lo_used);
    let mirrored = host.mirrored.iter().filter(|link| !link.is_loopback || !is_lo_used);
    for link in mirrored.chain(lo) {
        let facts = host.facts(link.ifindex);
        if processors.len() < 2 {
            findings.push(Finding::ok("one processor: nothing to share out").about(&link.name));
            continue;
        }
        match queues(link) {
            Ok(queues) => findings.extend(judge(link, &facts, &queues, &processors)),
            Err(error) => findings.push(Finding::note(error.to_string(), "").about(&link.name)),
        }
    }
    Ok(findings)
}

/// Each receiving queue's mask.
fn queues(link: &Link) -> io::Result<Vec<(PathBuf, String)>> {
    let folder = PathBuf::from(format!("/sys/class/net/{}", link.name));
    // /sys shows the network namespace in which it was mounted.
    let ifindex = fs::read_to_string(folder.join("ifindex")).unwrap_or_default();
    if ifindex.trim() != link.ifindex.to_string() {
        return Err(io::Error::other(
            "/sys is not of this network namespace: mount it here, or use ip netns exec",
        ));
    }
    let mut queues = Vec::new();
    for entry in fs::read_dir(folder.join("queues"))? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("rx-")) {
            let path = path.join("rps_cpus");
            queues.push((path.clone(), fs::read_to_string(&path)?.trim().to_owned()));
        }
    }
    queues.sort();
    Ok(queues)
}

fn judge(link: &Link, facts: &Facts, queues: &[(PathBuf, String)], processors: &[usize]) -> Option<Finding> {
    let name = &link.name;
    let is_soft = link.is_loopback || facts.kind == "veth";
    let masks: Vec<_> = queues.iter().map(|(_, mask)| mask.as_str()).collect();
    let found = format!("rps_cpus is {}", masks.join(" and "));
    // A card with several queues has its interrupts for that.
    if !is_soft && queues.len() > 1 {
        return Some(Finding::ok(format!("{} queues", queues.len())).about(name));
    }
    if queues.iter().all(|(_, mask)| count(mask) > 1) {
        return Some(Finding::ok(found).about(name));
    }
    let wanted = mask(processors);
    let mut finding = match is_soft {
        true => Finding::warn(found, WHY),
        false => Finding::note(
            format!("{found}, with one queue"),
            "one processor does all the receiving; steering spreads connections over all of them",
        ),
    };
    for (path, old) in queues.iter().filter(|(_, mask)| count(mask) <= 1) {
        let set = |mask: &str| format!("echo {mask} > {}", path.display());
        finding = finding.mend(set(&wanted), set(old));
    }
    Some(if is_soft { finding.safe().about(name) } else { finding.about(name) })
}

/// Processors in a mask: words of 32 bits in hexadecimal, the highest first.
fn count(mask: &str) -> u32 {
    mask.split(',').filter_map(|word| u32::from_str_radix(word, 16).ok()).map(u32::count_ones).sum()
}

fn mask(processors: &[usize]) -> String {
    let words = processors.iter().max().map_or(1, |last| last / 32 + 1);
    let mut mask = vec![0_u32; words];
    for processor in processors {
        mask[words - 1 - processor / 32] |= 1 << (processor % 32);
    }
    let mut text = format!("{:x}", mask[0]);
    for word in &mask[1..] {
        text += &format!(",{word:08x}");
    }
    text
}

/// All that the host has, whatever this process may use.
fn online() -> Vec<usize> {
    let list = fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    match super::processors::parse_list(list.trim()) {
        list if list.is_empty() => affinity::allowed().unwrap_or_default(),
        list => list,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks() {
        assert_eq!(mask(&[0, 1]), "3");
        assert_eq!(mask(&[0, 31, 32, 64]), "1,00000001,80000001");
        assert_eq!(count("1,00000001,80000001"), 4);
        assert_eq!(count("00"), 0);
    }
}

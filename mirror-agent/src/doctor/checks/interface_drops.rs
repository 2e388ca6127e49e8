//! What interfaces, and the queues in front of them, have thrown away.

use std::{thread, time::Duration};

use anyhow::Result;
use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::{
    link::Stats64,
    tc::{TcAttribute, TcStats2},
};

use crate::{
    doctor::{
        check::{Check, Counter},
        ethtool,
        facts::Facts,
        finding::Finding,
        host::Host,
    },
    links::Link,
};

/// See the module.
pub const CHECK: Check = Check {
    id: "interface-drops",
    title: "what the mirrored interfaces, and those towards the sensors, have thrown away",
    look,
    counters: Some(counters),
};

/// How long a counter is watched that is not 0.
const WATCHED: Duration = Duration::from_millis(200);

/// One of an interface's counters.
struct Kind {
    name: &'static str,
    of: fn(&Stats64) -> u64,
    why: &'static str,
    /// Whether a larger ring of the card makes it rarer.
    is_ring: bool,
}

const CARD: &str = "the card had no room: neither the host nor the mirror has seen these frames";
const SENT: &str = "what was to leave here was thrown away: of the agent's datagrams on the interface towards the sensor, of the \
                    mirrored traffic after its copy was made on a mirrored one";

const KINDS: [Kind; 6] = [
    Kind { name: "rx_missed", of: |stats| stats.rx_missed_errors, why: CARD, is_ring: true },
    Kind { name: "rx_fifo", of: |stats| stats.rx_fifo_errors, why: CARD, is_ring: true },
    Kind { name: "rx_over", of: |stats| stats.rx_over_errors, why: CARD, is_ring: true },
    Kind {
        name: "rx_dropped",
        of: |stats| stats.rx_dropped,
        why: "a full backlog (softnet), or packets of a protocol that nobody here wants: those the mirror has seen",
        is_ring: false,
    },
    Kind { name: "tx_dropped", of: |stats| stats.tx_dropped, why: SENT, is_ring: false },
    Kind { name: "tx_fifo", of: |stats| stats.tx_fifo_errors, why: SENT, is_ring: true },
];

const QUEUED: &str = "the interface's queue (tc) was full: what the agent sends through the host's stack (--transmit udp, fragments, \
                      redirect mode) is lost there, after it was counted as sent";

fn counters(host: &Host) -> Result<Vec<Counter>> {
    let now = host.facts_now()?;
    let mut counters = Vec::new();
    for link in host.concerned()? {
        let Some(Facts { stats, .. }) = now.iter().find(|facts| facts.ifindex == link.ifindex) else {
            continue;
        };
        for Kind { name, of, why, .. } in KINDS {
            counters.push(Counter { name: format!("{} {name}", link.name), value: of(stats), why });
        }
    }
    for link in host.outgoing()? {
        // Drops of an interface with several queues are those of each.
        let value = host.wait(queue_drops(host, link))?;
        counters.push(Counter { name: format!("{} queue", link.name), value, why: QUEUED });
    }
    Ok(counters)
}

/// Packets that the root queue discipline of an interface has dropped.
async fn queue_drops(host: &Host, link: &Link) -> Result<u64> {
    let request = host.netlink().qdisc().get().index(link.ifindex.cast_signed());
    let queues: Vec<_> = request.execute().try_collect().await?;
    let drops = queues.iter().filter(|queue| queue.header.index == link.ifindex.cast_signed()).map(|queue| {
        let stats = queue.attributes.iter().find_map(|attribute| match attribute {
            TcAttribute::Stats2(all) => all.iter().find_map(|one| match one {
                TcStats2::Queue(stats) => Some(u64::from(stats.drops)),
                _ => None,
            }),
            _ => None,
        });
        stats.unwrap_or(0)
    });
    // A discipline counts what those below it drop.
    Ok(drops.max().unwrap_or(0))
}

fn look(host: &Host) -> Result<Vec<Finding>> {
    let before = counters(host)?;
    let mut after = before.clone();
    if before.iter().any(|counter| counter.value > 0) {
        thread::sleep(WATCHED);
        after = counters(host)?;
    }
    let mut findings = Vec::new();
    for link in host.concerned()? {
        let prefix = format!("{} ", link.name);
        let mut is_clean = true;
        for counter in before.iter().filter(|counter| counter.name.starts_with(&prefix) && counter.value > 0)
        {
            is_clean = false;
            let now =
                after.iter().find(|now| now.name == counter.name).map_or(counter.value, |now| now.value);
            let name = counter.name.trim_start_matches(&prefix);
            let finding = match now.saturating_sub(counter.value) {
                0 => Finding::note(format!("{name} is {now}, and does not grow at present"), counter.why),
                growth => {
                    let found = format!("{name} is {now}, and grows: {growth} in {} ms", WATCHED.as_millis());
                    Finding::warn(found, counter.why)
                }
            };
            let is_ring = KINDS.iter().any(|kind| kind.name == name && kind.is_ring);
            let rings = if is_ring { ethtool::rings(&link.name).ok() } else { None };
            findings.push(enlarge(finding, &link.name, name, rings).about(&link.name));
        }
        if is_clean {
            findings.push(Finding::ok("nothing dropped").about(&link.name));
        }
    }
    Ok(findings)
}

/// Adds what gives the card a larger ring, where it can have one.
fn enlarge(finding: Finding, link: &str, counter: &str, rings: Option<ethtool::Rings>) -> Finding {
    let Some(rings) = rings else { return finding };
    let (side, now, most) = match counter.starts_with("rx") {
        true => ("rx", rings.rx, rings.rx_max),
        false => ("tx", rings.tx, rings.tx_max),
    };
    // More is slower, since it does not stay in the cache.
    let wanted = now.saturating_mul(4).clamp(now, most.min(4096).max(now));
    if wanted == now {
        return finding;
    }
    let set = |size| format!("ethtool -G {link} {side} {size}");
    // The card may lose its link for a moment.
    finding.mend(set(wanted), set(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rings(rx: u32, rx_max: u32) -> Option<ethtool::Rings> {
        let mut rings = ethtool::Rings::default();
        (rings.rx, rings.rx_max) = (rx, rx_max);
        Some(rings)
    }

    #[test]
    fn a_ring_grows_as_far_as_the_card_lets_it() {
        let fix = |rings| enlarge(Finding::warn("", ""), "eth0", "rx_missed", rings);
        assert_eq!(fix(rings(256, 8192)).fix, ["ethtool -G eth0 rx 1024"]);
        assert_eq!(fix(rings(256, 8192)).undo, ["ethtool -G eth0 rx 256"]);
        assert_eq!(fix(rings(256, 512)).fix, ["ethtool -G eth0 rx 512"]);
        assert_eq!(fix(rings(2048, 8192)).fix, ["ethtool -G eth0 rx 4096"]);
        assert!(fix(rings(8192, 8192)).fix.is_empty());
        assert!(fix(rings(8192, 16384)).fix.is_empty());
        assert!(fix(None).fix.is_empty());
    }
}

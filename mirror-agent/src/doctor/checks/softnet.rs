//! What the processors had no room or no time for while they handled packets: /proc/net/softnet_stat, of the whole host.

use std::{fs, thread, time::Duration};

use anyhow::{Context as _, Result};

use super::netdev_backlog;
use crate::doctor::{
    check::{Check, Counter},
    finding::Finding,
    host::Host,
    sysctl,
};

/// See the module.
pub const CHECK: Check = Check {
    id: "softnet",
    title: "packets that found no room, and turns that were too short (softnet_stat)",
    look,
    counters: Some(counters),
};

const FILE: &str = "/proc/net/softnet_stat";

const DROPPED: &str = "packets of lo, veth or RPS found the processor's backlog full: lost before a hook or the sensor saw them, \
                       the mirror's own datagrams among them";
const SQUEEZED: &str = "packets were left over when the softirq's turn was up: they wait, and the card's ring or the backlog \
                        fills meanwhile";

/// How long a counter is watched that is not 0.
const WATCHED: Duration = Duration::from_millis(200);

/// The kernel's defaults are 300 packets and 2 ticks of its clock, which are 2 to 20 ms.
const BUDGET: &str = "net.core.netdev_budget";
const BUDGET_US: &str = "net.core.netdev_budget_usecs";

/// All processors together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Stat {
    dropped: u64,
    squeezed: u64,
}

fn read() -> Result<Stat> {
    let text = fs::read_to_string(FILE).with_context(|| format!("cannot read {FILE}"))?;
    Ok(parse(&text))
}

/// A line for each processor, with numbers in hexadecimal: processed, dropped, squeezed, and others.
fn parse(text: &str) -> Stat {
    let mut sum = Stat::default();
    for line in text.lines() {
        let mut words = line.split_whitespace().map(|word| u64::from_str_radix(word, 16).unwrap_or(0));
        let _processed = words.next();
        sum.dropped += words.next().unwrap_or(0);
        sum.squeezed += words.next().unwrap_or(0);
    }
    sum
}

fn counters(_: &Host) -> Result<Vec<Counter>> {
    let Stat { dropped, squeezed } = read()?;
    Ok(vec![
        Counter { name: "dropped".into(), value: dropped, why: DROPPED },
        Counter { name: "squeezed".into(), value: squeezed, why: SQUEEZED },
    ])
}

fn look(_: &Host) -> Result<Vec<Finding>> {
    let before = read()?;
    if before != Stat::default() {
        thread::sleep(WATCHED);
    }
    let now = read()?;
    Ok(vec![
        dropped(now.dropped, now.dropped - before.dropped),
        squeezed(now.squeezed, now.squeezed - before.squeezed),
    ])
}

/// `growth` is that within [`WATCHED`].
fn dropped(count: u64, growth: u64) -> Finding {
    let finding = match (count, growth) {
        (0, _) => return Finding::ok("no packet dropped"),
        (_, 0) => Finding::note(format!("{count} packets dropped since the start, none at present"), DROPPED),
        _ => {
            Finding::warn(format!("{count} packets dropped, {growth} in {} ms", WATCHED.as_millis()), DROPPED)
        }
    };
    match sysctl::of_host(netdev_backlog::KEY) {
        // Those of the past are no reason to raise what is high enough.
        Ok(backlog) if growth > 0 || backlog < netdev_backlog::ENOUGH => {
            let wanted = (backlog * 4).max(netdev_backlog::ENOUGH);
            sysctl::mend(finding, &[(netdev_backlog::KEY, backlog, wanted)])
        }
        _ => finding,
    }
}

fn squeezed(count: u64, growth: u64) -> Finding {
    let finding = match (count, growth) {
        (0, _) => return Finding::ok("no turn was too short"),
        (_, 0) => {
            return Finding::note(
                format!("{count} turns were too short since the start, none at present"),
                SQUEEZED,
            );
        }
        _ => Finding::warn(
            format!("{count} turns were too short, {growth} in {} ms", WATCHED.as_millis()),
            SQUEEZED,
        ),
    };
    match (sysctl::of_host(BUDGET), sysctl::of_host(BUDGET_US)) {
        (Ok(budget), Ok(us)) => {
            sysctl::mend(finding, &[(BUDGET, budget, budget * 2), (BUDGET_US, us, us * 2)])
        }
        _ => finding,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Status;

    #[test]
    fn columns_are_hexadecimal_and_added_up() {
        let text = "c7610841 0009b67a 00000028 0 0\n7426223b 00000573 00000043 0 0\n";
        assert_eq!(parse(text), Stat { dropped: 0x9b67a + 0x573, squeezed: 0x6b });
        assert_eq!(parse(""), Stat::default());
    }

    #[test]
    fn what_is_past_is_a_note_and_what_grows_a_warning() {
        assert_eq!(
            [dropped(0, 0).status, dropped(9, 0).status, dropped(9, 2).status],
            [Status::Ok, Status::Note, Status::Warn]
        );
        assert_eq!(
            [squeezed(0, 0).status, squeezed(9, 0).status, squeezed(9, 2).status],
            [Status::Ok, Status::Note, Status::Warn]
        );
    }
}

//! Whether anything crosses the mirrored interfaces.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result};
use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::link::LinkAttribute;

use crate::{
    doctor::{check::Check, finding::Finding, host::Host},
    links::Link,
};

/// See the module.
pub const CHECK: Check =
    Check { id: "traffic", title: "whether anything crosses the mirrored interfaces", look, counters: None };

/// Between the two looks.
const APART: Duration = Duration::from_millis(300);

/// Packets received and sent.
#[derive(Clone, Copy)]
struct Packets([u64; 2]);

fn look(host: &Host) -> Result<Vec<Finding>> {
    let up: Vec<&Link> = host.mirrored.iter().filter(|link| link.has_carrier).collect();
    if up.is_empty() {
        return Ok(Vec::new());
    }
    let before: Vec<_> = up.iter().map(|link| packets(host, link)).collect::<Result<_>>()?;
    thread::sleep(APART);
    let mut all = Vec::new();
    for (link, Packets(before)) in up.iter().zip(before) {
        let Packets(now) = packets(host, link)?;
        let [received, sent] = [0, 1].map(|side| now[side].saturating_sub(before[side]));
        let time = format!("within {} ms", APART.as_millis());
        let found = format!("{received} packets received and {sent} sent {time}");
        let half = "only one side of connections is seen: sensors cannot follow them; is the other one on another \
                    interface?";
        // In so short a time few packets say nothing of the other direction.
        const MANY: u64 = 100;
        let finding = match (received, sent) {
            (0, 0) => {
                let why = "an agent has nothing to mirror while that is so: is this the interface that has the traffic?";
                Finding::note(format!("nothing crosses it {time}"), why)
            }
            (MANY.., 0) | (0, MANY..) => Finding::note(found, half),
            _ => Finding::ok(found),
        };
        all.push(finding.about(&link.name));
    }
    Ok(all)
}

fn packets(host: &Host, link: &Link) -> Result<Packets> {
    let asked = host.netlink().link().get().match_index(link.ifindex).execute();
    let messages: Vec<_> = host
        .wait(asked.try_collect())
        .with_context(|| format!("cannot ask for the packets of {}", link.name))?;
    let stats =
        messages.iter().flat_map(|message| &message.attributes).find_map(|attribute| match attribute {
            LinkAttribute::Stats64(stats) => Some(Packets([stats.rx_packets, stats.tx_packets])),
            _ => None,
        });
    stats.with_context(|| format!("the kernel does not count the packets of {}", link.name))
}

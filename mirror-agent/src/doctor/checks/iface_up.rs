//! Whether frames can cross the mirrored interfaces at all.

use anyhow::Result;

use crate::doctor::{check::Check, finding::Finding, host::Host, next_hop};

/// See the module.
pub const CHECK: Check = Check {
    id: "iface-up",
    title: "whether the mirrored interfaces are up, have a link, and carry Ethernet",
    look,
    counters: None,
};

fn look(host: &Host) -> Result<Vec<Finding>> {
    if host.mirrored.is_empty() {
        let found = "no interface is up, but lo";
        return Ok(vec![Finding::note(found, "there is nothing to mirror: name an interface with --iface")]);
    }
    let mut all = Vec::new();
    for link in &host.mirrored {
        let name = &link.name;
        all.push(
            if !link.is_ethernet {
                let found = format!("{name} carries no Ethernet frames");
                Finding::fail(found, "the agent refuses it: mirror the interface below it, or another")
            } else if link.has_carrier {
                Finding::ok(format!("{name} is up and has a link"))
            } else {
                let why = "no frame crosses it, so that nothing is mirrored";
                next_hop::up(Finding::fail(format!("{name} is down or has no link"), why), link)
            }
            .about(name),
        );
    }
    Ok(all)
}

//! What the process may do: checked before anything is touched, and given up as soon as it is of no use any more.
//!
//! Capabilities belong to threads (capabilities(7)). Each thread of the agent gives up what it has no use for when it
//! starts to work, the control thread when everything is attached. docs/privileges.md says who keeps what, and why.

mod bpf;
mod files;
mod sets;

use std::io;

use anyhow::{Result, bail};
pub use caps::Capability;

use self::files::need_override;
pub use self::{
    files::keep_to_read,
    sets::{begin, describe, has, keep},
};
use crate::{
    cli::{Mode, Transmit},
    config::{Config, Output, Source},
    invocation::Reload,
    output::{stack::Kind, udp_sockets},
};

/// What the agent needs a capability for.
struct Need {
    capability: Capability,
    purpose: &'static str,
}

const LIVE: [Need; 3] = [
    Need { capability: Capability::CAP_BPF, purpose: "to load its programs" },
    Need { capability: Capability::CAP_PERFMON, purpose: "to have them read packets" },
    Need { capability: Capability::CAP_NET_ADMIN, purpose: "to attach them" },
];
const PACKET: Need = Need { capability: Capability::CAP_NET_RAW, purpose: "for --transmit packet" };

/// Checks that what is asked for may be done.
///
/// # Errors
///
/// Names the capabilities that are missing and what each is for.
pub fn require(config: &Config) -> Result<()> {
    let is_live = matches!(config.source, Source::Live(_));
    let delivery = match &config.output {
        Output::Sensors(_, delivery) => Some(delivery),
        Output::File { .. } => None,
    };
    let is_packet = delivery.is_some_and(|delivery| delivery.transmit == Transmit::Packet);
    let missing = missing(has, is_live, is_packet);
    if missing.is_empty() {
        return Ok(());
    }
    let list: Vec<_> = missing.iter().map(|need| format!("{} {}", need.capability, need.purpose)).collect();
    bail!("missing {}: run as root, or grant what is missing", list.join(", "))
}

fn missing(has: impl Fn(Capability) -> bool, is_live: bool, is_packet: bool) -> Vec<Need> {
    LIVE.into_iter()
        .filter(|_| is_live)
        .chain(is_packet.then_some(PACKET))
        // The kernel takes CAP_SYS_ADMIN for the two that were split off from it in Linux 5.8.
        .filter(|need| {
            let is_new = matches!(need.capability, Capability::CAP_BPF | Capability::CAP_PERFMON);
            !(has(need.capability) || is_new && has(Capability::CAP_SYS_ADMIN))
        })
        .collect()
}

/// What datagrams are handed to the host's stack by, where there are `ways`, one thread's to one sensor each, and the
/// process may have so many `descriptors`.
#[must_use]
pub fn kind_of_sockets(ways: usize, descriptors: u64) -> Kind {
    if has(Capability::CAP_NET_RAW) {
        Kind::Raw
    } else {
        Kind::Udp(udp_sockets::share(descriptors, ways as u64))
    }
}

/// Gives up what a thread that sends has no use for: everything, where the kernel has programs run and tables changed by
/// whoever has their descriptors.
pub fn keep_to_send() {
    keep(bpf::capabilities());
}

/// The same, of a thread that shares tables with the kernel programs and does nothing else with the kernel.
pub fn keep_to_share() {
    keep(bpf::capabilities());
}

/// The same, of the thread that opens what takes a capability for the sending threads.
pub fn keep_to_open() {
    // CAP_IPC_LOCK: the memory of AF_XDP may be larger than RLIMIT_MEMLOCK.
    keep(&[Capability::CAP_NET_RAW, Capability::CAP_NET_ADMIN, Capability::CAP_IPC_LOCK]);
}

/// Gives up what the control thread has no use for once everything is attached. Returns what it keeps.
///
/// # Errors
///
/// The kernel has no room for another thread.
pub fn keep_to_control(config: &Config, reload: Option<&Reload>) -> io::Result<()> {
    let named = match &config.output {
        Output::Sensors(sensors, _) => Some(sensors),
        Output::File { .. } => None,
    };
    let mut kept = Vec::new();
    if let Source::Live(live) = &config.source {
        // Interfaces come, and filters go. In redirect mode also those of the interface that leads to a sensor.
        kept.push(Capability::CAP_NET_ADMIN);
        kept.extend(bpf::capabilities());
        // Another filter is another program.
        if reload.is_some_and(Reload::has_filter) {
            kept.extend([Capability::CAP_BPF, Capability::CAP_PERFMON]);
        }
        if live.mode == Mode::Redirect {
            kept.extend(bpf::capabilities());
        }
    }
    if let Some(sensors) = named {
        // Neighbours are asked whether they are there.
        if sensors.all.len() > 1 {
            kept.push(Capability::CAP_NET_ADMIN);
        }
        // A name may get another address: sockets are opened, and a program that sends is loaded.
        if sensors.all.iter().any(|sensor| sensor.address().is_none()) {
            kept.extend([Capability::CAP_NET_ADMIN, Capability::CAP_NET_RAW, Capability::CAP_BPF]);
        }
    }
    if let Some(reload) = reload
        && need_override(reload.files())?
    {
        kept.push(files::override_in_hand());
    }
    keep(&kept);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(held: &[Capability], is_live: bool, is_packet: bool) -> Vec<String> {
        let missing = missing(|capability| held.contains(&capability), is_live, is_packet);
        missing.iter().map(|need| need.capability.to_string()).collect()
    }

    #[test]
    fn names_what_is_missing() {
        let all: Vec<_> = caps::all().into_iter().collect();
        assert_eq!(names(&all, true, true), [""; 0]);
        assert_eq!(names(&[], true, true), ["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN", "CAP_NET_RAW"]);
        assert_eq!(names(&[], true, false), ["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN"]);
        assert_eq!(names(&[], false, false), [""; 0], "a replay needs none");
        assert_eq!(names(&[], false, true), ["CAP_NET_RAW"]);
        let old = [Capability::CAP_SYS_ADMIN, Capability::CAP_NET_ADMIN];
        assert_eq!(names(&old, true, true), ["CAP_NET_RAW"]);
    }
}

//! The checks, a file each.

mod agent;
mod bpf_jit;
mod capabilities;
mod clock;
mod iface_up;
mod interface_drops;
mod kernel;
mod memlock;
mod mtu;
mod netdev_backlog;
mod offloads;
pub mod other_programs;
mod probe;
mod processors;
mod rps;
pub mod sensor_answers;
mod sensor_queue;
mod socket_buffers;
mod softnet;
mod traffic;
mod udp_errors;

use super::check::Check;

/// All of them, in the order of a frame's way: rights and kernel, the host, its interfaces, the hooks, the way to the
/// sensor, all of it with a frame, and what agents say.
pub const ALL: &[&Check] = &[
    &capabilities::CHECK,
    &kernel::CHECK,
    &bpf_jit::CHECK,
    &memlock::CHECK,
    &clock::CHECK,
    &processors::CHECK,
    &rps::CHECK,
    &netdev_backlog::CHECK,
    &softnet::CHECK,
    &socket_buffers::CHECK,
    &iface_up::CHECK,
    &traffic::CHECK,
    &offloads::CHECK,
    &interface_drops::CHECK,
    &other_programs::CHECK,
    &mtu::CHECK,
    &sensor_answers::CHECK,
    &sensor_queue::CHECK,
    &udp_errors::CHECK,
    &probe::CHECK,
    &agent::CHECK,
];

/// The check of this name.
///
/// # Errors
///
/// There is none; the text names the nearest.
pub fn by_id(id: &str) -> Result<&'static Check, String> {
    let find = ALL.iter().find(|check| check.id == id);
    find.copied().ok_or_else(|| {
        let likeness = |check: &&&Check| (strsim::jaro_winkler(check.id, id) * 1000.0) as u32;
        let nearest = ALL.iter().max_by_key(likeness).map_or("", |check| check.id);
        format!("there is no such check, do you mean {nearest}? --list has all of them")
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ids_are_kebab_case_and_each_is_there_once() {
        let ids: BTreeSet<_> = ALL.iter().map(|check| check.id).collect();
        assert_eq!(ids.len(), ALL.len());
        for id in ids {
            assert!(id.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'), "{id}");
            assert!(by_id(id).is_ok_and(|check| check.id == id));
        }
    }

    #[test]
    fn a_check_that_is_not_there_is_refused_with_the_nearest() {
        let error = by_id("netdev-backlogs").map(|check| check.id);
        assert!(error.is_err_and(|error| error.contains("netdev-backlog?")));
    }
}

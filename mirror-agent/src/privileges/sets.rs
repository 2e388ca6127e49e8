//! The calling thread's sets of capabilities.

use caps::{CapSet, Capability, CapsHashSet};

/// Whether the calling thread has a capability.
#[must_use]
pub fn has(capability: Capability) -> bool {
    caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false)
}

/// Puts in effect what is permitted, and makes sure that neither this process nor one that it might start ever gets more.
/// To be called while there is one thread: those that follow have it from this one.
pub fn begin() {
    // A file may permit capabilities and leave them to the program (setcap, `=p`): so it can be started where the
    // bounding set has not all of them.
    let effective = caps::read(None, CapSet::Permitted)
        .and_then(|permitted| caps::set(None, CapSet::Effective, &permitted));
    if let Err(error) = effective {
        log::debug!("what is permitted is not in effect: {error}");
    }
    // SAFETY: PR_SET_NO_NEW_PRIVS takes a number and touches no memory.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        log::debug!("no_new_privs is not to be had: {}", std::io::Error::last_os_error());
    }
    for result in [caps::clear(None, CapSet::Ambient), caps::clear(None, CapSet::Inheritable)] {
        if let Err(error) = result {
            log::debug!("capabilities may be handed on: {error}");
        }
    }
    // Takes CAP_SETPCAP.
    if has(Capability::CAP_SETPCAP)
        && let Err(error) = caps::clear(None, CapSet::Bounding)
    {
        log::debug!("the bounding set stays: {error}");
    }
}

/// Has the calling thread keep those of its capabilities that are among `wanted`, and no others, for good.
pub fn keep(wanted: &[Capability]) {
    if let Err(error) = try_keep(wanted) {
        // Nothing that works depends on it.
        log::warn!("cannot give up capabilities: {error}");
    }
}

fn try_keep(wanted: &[Capability]) -> Result<(), caps::errors::CapsError> {
    let permitted = caps::read(None, CapSet::Permitted)?;
    let kept: CapsHashSet = permitted.into_iter().filter(|capability| wanted.contains(capability)).collect();
    // What is in effect is always permitted.
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Permitted, &kept)
}

/// The capabilities of the calling thread, in their order.
#[must_use]
pub fn describe() -> String {
    let Ok(permitted) = caps::read(None, CapSet::Permitted) else { return "unknown".into() };
    let mut all: Vec<_> = permitted.into_iter().collect();
    if all.is_empty() {
        return "none".into();
    }
    all.sort_unstable_by_key(Capability::index);
    let names: Vec<_> = all.iter().map(Capability::to_string).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_keeps_what_it_has_of_what_is_wanted() {
        let kept = std::thread::spawn(|| {
            let had = has(Capability::CAP_NET_RAW);
            keep(&[Capability::CAP_NET_RAW, Capability::CAP_MAC_ADMIN]);
            keep(&[Capability::CAP_NET_RAW, Capability::CAP_NET_ADMIN]);
            (had, describe())
        });
        let (had, kept) = kept.join().unwrap_or_default();
        assert_eq!(kept, if had { "CAP_NET_RAW" } else { "none" });
    }
}

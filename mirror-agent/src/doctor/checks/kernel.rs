//! What this kernel can do.

use anyhow::{Result, bail};

use crate::{
    cli::{Hook, Mode},
    doctor::{
        capability,
        check::Check,
        finding::{Finding, Status},
        host::Host,
    },
    kernel::{
        skb_layout,
        support::{Ability, Support},
    },
};

/// See the module.
pub const CHECK: Check =
    Check { id: "kernel", title: "which hooks and modes this kernel has", look, counters: None };

fn look(host: &Host) -> Result<Vec<Finding>> {
    if !host.may(capability::BPF) {
        bail!("the kernel tells what it can do to who has CAP_BPF only");
    }
    let support = Support::probe()?;
    let mut findings = judge(&support, host.hook, host.mode);
    if let Err(error) = skb_layout::check() {
        let why = "super-frames are cut by their gso_size alone, and checksums that are left to the card are not completed";
        findings.push(Finding::warn(format!("what is left to the card cannot be read: {error:#}"), why));
    }
    Ok(findings)
}

/// A kernel of another version is what mends it: there is no command.
fn judge(support: &Support, hook: Hook, mode: Mode) -> Vec<Finding> {
    let bad = |is_asked_for| if is_asked_for { Status::Fail } else { Status::Note };
    let Support { tc, ring, tcx, fetch, xdp, xdp_frags } = support;
    [
        (tc, bad(hook == Hook::Tc), "no traffic can be mirrored with --hook tc, nor in redirect mode"),
        (ring, bad(mode == Mode::Ring), "ring mode needs it"),
        (tcx, Status::Note, "a clsact filter stays where the agent is killed, until its next start"),
        (fetch, Status::Note, "--limit works in ring mode only"),
        (xdp, bad(hook == Hook::Xdp), "no traffic can be mirrored with --hook xdp"),
        (xdp_frags, Status::Note, "--hook xdp is generic for jumbo frames"),
    ]
    .into_iter()
    .map(|(ability, status, why): (&Ability, _, _)| match ability.is_there() {
        true => Finding::ok(ability.to_string()),
        false => Finding::new(status, ability.to_string(), why),
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(has: bool) -> Support {
        let ability = |name| Ability::new(name, has, "too old");
        Support {
            tc: ability("TC"),
            ring: ability("ring"),
            tcx: ability("TCX"),
            fetch: ability("fetch"),
            xdp: ability("XDP"),
            xdp_frags: ability("frags"),
        }
    }

    #[test]
    fn what_is_asked_for_fails_and_the_rest_is_a_note() {
        let statuses = |has, hook, mode| -> Vec<Status> {
            judge(&kernel(has), hook, mode).iter().map(|finding| finding.status).collect()
        };
        use Status::{Fail, Note, Ok};
        assert_eq!(statuses(true, Hook::Tc, Mode::Ring), [Ok; 6]);
        assert_eq!(statuses(false, Hook::Tc, Mode::Ring), [Fail, Fail, Note, Note, Note, Note]);
        assert_eq!(statuses(false, Hook::Tc, Mode::Redirect), [Fail, Note, Note, Note, Note, Note]);
        assert_eq!(statuses(false, Hook::Xdp, Mode::Ring), [Note, Fail, Note, Note, Fail, Note]);
        assert!(judge(&kernel(false), Hook::Tc, Mode::Ring)[0].found.contains("too old"));
    }
}

//! Attaches a program to one of an interface's TC hooks, beside whatever else is there.

use anyhow::{Context as _, Result};
use aya::programs::{
    LinkOrder, ProgramError, SchedClassifier, TcAttachType,
    tc::{NlOptions, SchedClassifierLinkId, TcAttachOptions},
};

use super::{clsact, support::TcHook};

/// A program on a hook.
#[derive(Debug)]
pub struct Attachment {
    /// By which the program lets go.
    pub id: SchedClassifierLinkId,
    /// Whether the interface has its clsact qdisc only since now.
    pub added_qdisc: bool,
}

/// Attaches `program` to interface `name`, in front of everybody else: a program that ends the chain must not hide
/// frames from ours. `filter` is how it is to be known under the clsact qdisc, given a priority.
///
/// # Errors
///
/// The interface is gone, or the kernel refuses.
pub fn attach(
    program: &mut SchedClassifier,
    name: &str,
    side: TcAttachType,
    hook: TcHook,
    filter: impl Fn(u16) -> NlOptions,
) -> Result<Attachment> {
    if hook == TcHook::Tcx {
        let first = TcAttachOptions::TcxOrder(LinkOrder::first());
        let id = program
            .attach_with_options(name, side, first)
            .with_context(|| format!("cannot attach to {name}"))?;
        return Ok(Attachment { id, added_qdisc: false });
    }
    let added_qdisc =
        clsact::add_qdisc(name).with_context(|| format!("cannot add a clsact qdisc to {name}"))?;
    let mut result = Err(ProgramError::NotLoaded);
    for priority in clsact::PRIORITIES {
        result = program.attach_with_options(name, side, TcAttachOptions::Netlink(filter(priority)));
        if result.is_ok() {
            break;
        }
    }
    let id = result
        .with_context(|| format!("cannot attach to {name}: is there an ingress qdisc of somebody else's?"))?;
    Ok(Attachment { id, added_qdisc })
}

//! The encapsulating program on an interface that leads to the sensor.

use anyhow::{Context as _, Result, bail};
use aya::programs::{SchedClassifier, TcAttachType, tc::SchedClassifierLink};

use crate::{
    kernel::{
        claim::{Claim, Refusal},
        clsact,
        support::TcHook,
        tc_link::{self, Attachment},
    },
    links::{Link, Links},
};

/// An interface with the program.
pub struct Outgoing {
    link: SchedClassifierLink,
    /// Whether the clsact qdisc under its filter is there because of an agent.
    owns_qdisc: bool,
    _claim: Claim,
}

impl Outgoing {
    /// Attaches the program, and takes away what a killed agent left.
    ///
    /// # Errors
    ///
    /// The interface is gone, the kernel refuses, or too many agents send through it.
    pub async fn attach(
        program: &mut SchedClassifier,
        link: &Link,
        hook: TcHook,
        links: &Links,
    ) -> Result<Self> {
        let (sender, claim) = claim(link)?;
        let left_over = clsact::remove_senders_leftover(&links.handle, link.ifindex, sender)
            .await
            .with_context(|| format!("cannot look for what a killed agent left on {}", link.name))?;
        let filter = clsact::senders_filter(sender);
        let Attachment { id, added_qdisc } =
            tc_link::attach(program, &link.name, TcAttachType::Egress, hook, filter)?;
        let link = program.take_link(id)?;
        Ok(Self { link, owns_qdisc: left_over || added_qdisc, _claim: claim })
    }

    /// Takes it away from the interface with number `ifindex`.
    pub async fn detach(self, ifindex: u32, links: &Links) {
        let Self { link, owns_qdisc, _claim } = self;
        drop(link);
        if owns_qdisc && let Err(error) = clsact::remove_empty_qdisc(&links.handle, ifindex).await {
            log::debug!("removing the clsact qdisc of interface number {ifindex}: {error}");
        }
    }
}

/// Several agents may send through one interface: a filter's handle tells whose it is.
fn claim(link: &Link) -> Result<(u16, Claim)> {
    for sender in 0..clsact::SENDERS_MAX {
        match Claim::named(&format!("mirror-agent/sender/{}/{sender}", link.ifindex)) {
            Ok(claim) => return Ok((sender, claim)),
            Err(Refusal::Taken(_)) => {}
            Err(Refusal::Failed(error)) => return Err(error).context("cannot claim a filter for this agent"),
        }
    }
    bail!("{} agents send through {} already: use --mode ring", clsact::SENDERS_MAX, link.name)
}

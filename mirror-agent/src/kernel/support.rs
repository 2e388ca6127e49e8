//! What this kernel can do, in one place: probed, never guessed from its version. What the agent does with it is
//! chosen here too, or refused with the reason.

mod ability;
mod fetch;
mod ring;
mod tc;
pub mod tcx;
mod xdp;

use anyhow::Result;

pub use self::ability::Ability;
use super::xdp::XdpHook;
use crate::cli::{Attach, XdpAttach};

/// What was found.
#[derive(Clone, Debug)]
pub struct Support {
    /// Programs on the TC hooks.
    pub tc: Ability,
    /// Their ring buffer to the agent.
    pub ring: Ability,
    /// TC hooks that hold programs by bpf_link.
    pub tcx: Ability,
    /// What redirect mode counts frames with where the run ends after so many.
    pub fetch: Ability,
    /// Programs in front of the stack.
    pub xdp: Ability,
    /// Their frames in several pieces.
    pub xdp_frags: Ability,
}

/// The kind of TC hook that programs are attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcHook {
    /// TCX: the kernel takes the program away when the agent is gone.
    Tcx,
    /// A filter under the clsact qdisc.
    Clsact,
}

impl Support {
    /// Asks the kernel.
    ///
    /// # Errors
    ///
    /// It does not answer: most often because the process has not the right to ask.
    pub fn probe() -> Result<Self> {
        Ok(Self {
            tc: tc::probe()?,
            ring: ring::probe()?,
            tcx: tcx::probe()?,
            fetch: fetch::probe()?,
            xdp: xdp::probe()?,
            xdp_frags: xdp::probe_frags()?,
        })
    }

    /// Checks that there is what nothing live works without.
    ///
    /// # Errors
    ///
    /// Names what is missing and since when Linux has it.
    pub fn require_live(&self) -> Result<()> {
        self.tc.require()?;
        self.ring.require()
    }

    /// The kind of TC hook to use where `wanted` is asked for.
    ///
    /// # Errors
    ///
    /// It is one that the kernel has not.
    pub fn tc_hook(&self, wanted: Attach) -> Result<TcHook> {
        match wanted {
            Attach::Clsact => Ok(TcHook::Clsact),
            Attach::Auto if !self.tcx.is_there() => {
                log::info!("{}", self.tcx);
                Ok(TcHook::Clsact)
            }
            Attach::Auto | Attach::Tcx => self.tcx.require().map(|()| TcHook::Tcx),
        }
    }

    /// How to attach XDP programs where `wanted` is asked for.
    ///
    /// # Errors
    ///
    /// The kernel has none that work.
    pub fn xdp_hook(&self, wanted: XdpAttach) -> Result<XdpHook> {
        self.xdp.require()?;
        if wanted == XdpAttach::Frags {
            self.xdp_frags.require()?;
        }
        Ok(XdpHook { wanted, has_frags: self.xdp_frags.is_there() })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn kernel(has_tcx: bool) -> Support {
        let there = |name| Ability::new(name, true, "");
        Support {
            tc: there("TC"),
            ring: there("ring"),
            tcx: Ability::new("TCX hooks", has_tcx, "too old"),
            fetch: there("fetch"),
            xdp: there("XDP"),
            xdp_frags: there("XDP frags"),
        }
    }

    #[test]
    fn tcx_is_preferred_where_there_is_a_choice() {
        assert_eq!(kernel(true).tc_hook(Attach::Auto).unwrap(), TcHook::Tcx);
        assert_eq!(kernel(true).tc_hook(Attach::Clsact).unwrap(), TcHook::Clsact);
        assert_eq!(kernel(true).tc_hook(Attach::Tcx).unwrap(), TcHook::Tcx);
    }

    #[test]
    fn frames_in_several_pieces_are_refused_where_there_are_none() {
        let new = kernel(true);
        assert!(new.xdp_hook(XdpAttach::Frags).unwrap().has_frags);
        let old = Support { xdp_frags: Ability::new("XDP frags", false, "too old"), ..new };
        assert!(!old.xdp_hook(XdpAttach::Auto).unwrap().has_frags);
        let refusal = old.xdp_hook(XdpAttach::Frags).unwrap_err();
        assert_eq!(refusal.to_string(), "this kernel has no XDP frags: too old");
    }

    #[test]
    fn clsact_stands_in_for_tcx_unless_that_is_insisted_on() {
        assert_eq!(kernel(false).tc_hook(Attach::Auto).unwrap(), TcHook::Clsact);
        assert_eq!(kernel(false).tc_hook(Attach::Clsact).unwrap(), TcHook::Clsact);
        let refusal = kernel(false).tc_hook(Attach::Tcx).unwrap_err();
        assert_eq!(refusal.to_string(), "this kernel has no TCX hooks: too old");
    }
}

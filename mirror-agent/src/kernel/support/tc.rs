//! Programs on the TC hooks, of either kind.

use anyhow::{Context as _, Result};
use aya::{programs::ProgramType, sys::is_program_supported};

use super::Ability;

/// Whether such programs can be loaded.
///
/// # Errors
///
/// The kernel does not say.
pub fn probe() -> Result<Ability> {
    let is_there = is_program_supported(ProgramType::SchedClassifier)
        .context("cannot find out which BPF programs this kernel takes")?;
    let remedy = "it needs CONFIG_BPF_SYSCALL and CONFIG_NET_CLS_ACT";
    Ok(Ability::new("BPF programs on its TC hooks", is_there, remedy))
}

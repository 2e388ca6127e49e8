//! XDP: programs in front of the stack.

use anyhow::{Context as _, Result};
use aya::{
    programs::ProgramType,
    sys::{BpfHelper, is_helper_supported, is_program_supported},
};

use super::Ability;

/// Whether such programs can be loaded, and can read frames.
///
/// # Errors
///
/// The kernel does not say.
pub fn probe() -> Result<Ability> {
    let is_there = is_program_supported(ProgramType::Xdp)
        .context("cannot find out whether this kernel takes XDP programs")?;
    // Without, a frame cannot be copied.
    let can_copy = is_there && (has(BpfHelper::BPF_FUNC_xdp_load_bytes)? || may_read_kernel()?);
    let remedy =
        "it needs CONFIG_BPF_SYSCALL, and before Linux 5.18 CAP_PERFMON and no lockdown, use --hook tc";
    Ok(Ability::new("XDP programs that copy frames", can_copy, remedy))
}

/// Whether frames may come in several pieces: the helper that copies those came with them.
///
/// # Errors
///
/// The kernel does not say.
pub fn probe_frags() -> Result<Ability> {
    let is_there = has(BpfHelper::BPF_FUNC_xdp_load_bytes)?;
    let remedy = "they came with Linux 5.18, jumbo frames take generic XDP";
    Ok(Ability::new("XDP frames in several pieces", is_there, remedy))
}

fn may_read_kernel() -> Result<bool> {
    has(BpfHelper::BPF_FUNC_probe_read_kernel)
}

fn has(helper: BpfHelper) -> Result<bool> {
    is_helper_supported(ProgramType::Xdp, helper)
        .context("cannot find out what this kernel lets XDP programs do")
}

//! What this kernel can do: probed, never guessed from its version.

use anyhow::{Context as _, Result, bail};
use aya::{
    maps::MapType,
    programs::ProgramType,
    sys::{is_map_supported, is_program_supported},
};

/// Checks that the kernel has what nothing works without.
///
/// # Errors
///
/// Names what is missing and since when Linux has it.
pub fn require() -> Result<()> {
    let program = is_program_supported(ProgramType::SchedClassifier)
        .context("cannot find out which BPF programs this kernel takes")?;
    if !program {
        bail!(
            "this kernel takes no BPF programs on its TC hooks: it needs CONFIG_BPF_SYSCALL and CONFIG_NET_CLS_ACT"
        );
    }
    let ring =
        is_map_supported(MapType::RingBuf).context("cannot find out which BPF maps this kernel has")?;
    if !ring {
        bail!("this kernel has no BPF ring buffer: it came with Linux 5.8, use 5.10 or newer");
    }
    Ok(())
}

//! The ring buffer between the hooks and the agent.

use anyhow::{Context as _, Result};
use aya::{maps::MapType, sys::is_map_supported};

use super::Ability;

/// Whether there is such a map.
///
/// # Errors
///
/// The kernel does not say.
pub fn probe() -> Result<Ability> {
    let is_there =
        is_map_supported(MapType::RingBuf).context("cannot find out which BPF maps this kernel has")?;
    Ok(Ability::new("BPF ring buffer", is_there, "it came with Linux 5.8, use 5.10 or newer"))
}

//! Who else is on the hooks that the agent's frames and datagrams pass.

use anyhow::Result;
use mirror_common::record::Direction;

use super::{
    checks::other_programs::{self, Placed},
    finding::Finding,
    host::Host,
};
use crate::{
    kernel::hooks::{LIMITED_PROGRAMS, PROGRAMS},
    links::Link,
};

/// All that is on a TC hook and no agent's.
///
/// # Errors
///
/// What netlink says.
pub fn on_hook(host: &Host, link: &Link, direction: Direction) -> Result<Vec<Placed>> {
    let mut all = other_programs::chain(host, link, direction)?;
    all.retain(|placed| !placed.program.is_ours());
    Ok(all)
}

/// What frames meet there before an agent's program; all, where there is none.
///
/// # Errors
///
/// What netlink says.
pub fn in_front(host: &Host, link: &Link, direction: Direction) -> Result<Vec<Placed>> {
    let all = other_programs::chain(host, link, direction)?;
    Ok(all.into_iter().take_while(|placed| !placed.program.is_ours()).collect())
}

/// Whether an agent looks at frames there.
///
/// # Errors
///
/// What netlink says.
pub fn has_hook(host: &Host, link: &Link, direction: Direction) -> Result<bool> {
    let names = [PROGRAMS, LIMITED_PROGRAMS].map(|names| names[direction as usize]);
    let all = other_programs::chain(host, link, direction)?;
    Ok(all.iter().any(|placed| names.contains(&placed.program.name())))
}

/// For people.
#[must_use]
pub fn list(all: &[Placed]) -> String {
    all.iter().map(|placed| format!("{} on {}", placed.program, placed.place)).collect::<Vec<_>>().join(", ")
}

/// Adds the commands that take those away which may keep datagrams from leaving.
#[must_use]
pub fn take_away(finding: Finding, all: Vec<Placed>) -> Finding {
    let may_drop = all.into_iter().filter(|placed| placed.ends_chain != Some(false));
    may_drop.fold(finding, |finding, placed| finding.mend(placed.detach, ""))
}

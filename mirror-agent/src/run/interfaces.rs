//! Follows the interfaces of a live run.

use super::{Run, origin::Origin};
use crate::{
    config::{Config, Source},
    kernel::hooks::Hooks,
    links::{Change, Links},
};

impl Run {
    /// Interfaces come and go, and change their names: what is mirrored are those that have the names
    /// that were asked for.
    pub(super) async fn follow_changes(&mut self, config: &Config, links: &Links, changes: &[Change]) {
        let (Origin::Live { hooks, redirect, .. }, Source::Live(wanted)) = (&mut self.origin, &config.source)
        else {
            return;
        };
        if let Some(redirect) = redirect {
            redirect.hurry();
            if changes.iter().all(|change| *change == Change::Way) {
                return;
            }
        }
        // One that was deleted and made again meanwhile may have its number back, but not our hooks.
        for change in changes {
            if let Change::Gone(ifindex) = change {
                forget(hooks, *ifindex).await;
                if let Some(redirect) = redirect {
                    redirect.forget(*ifindex);
                }
            }
        }
        let now = match links.all().await {
            Ok(now) => now,
            Err(error) => return log::warn!("{error:#}"),
        };
        let is_there = |(ifindex, name): &(u32, &str)| {
            now.iter().any(|link| link.ifindex == *ifindex && link.name == *name)
        };
        let missing: Vec<u32> =
            hooks.attached().filter(|attached| !is_there(attached)).map(|(ifindex, _)| ifindex).collect();
        for ifindex in missing {
            forget(hooks, ifindex).await;
        }
        for link in now {
            if wanted.ifaces.contains(&link.name) && !hooks.has(&link.name) {
                match hooks.attach(&link).await {
                    Ok(()) => log::warn!("{} is back: mirroring it again", link.name),
                    Err(error) => log::warn!("{error:#}"),
                }
            }
        }
    }
}

async fn forget(hooks: &mut Hooks, ifindex: u32) {
    if let Some(name) = hooks.forget(ifindex).await {
        log::warn!("{name} is gone: it will be mirrored again when it is back");
    }
}

//! What cgroups leave of the processors' time to a process.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A bound on the time that a cgroup may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Where it is set.
    pub file: PathBuf,
    /// Microseconds of all processors together in each period.
    pub quota_us: u64,
    /// Microseconds.
    pub period_us: u64,
    is_v2: bool,
}

impl Quota {
    /// The cgroup's folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.file.parent().unwrap_or(&self.file)
    }

    /// What the file takes for 'no bound'.
    #[must_use]
    pub fn unlimited(&self) -> &'static str {
        if self.is_v2 { "max" } else { "-1" }
    }

    /// What the file takes for this bound. (Version 2 keeps the period where it is not said.)
    #[must_use]
    pub fn as_written(&self) -> String {
        self.quota_us.to_string()
    }

    /// How often the bound was met.
    #[must_use]
    pub fn times_throttled(&self) -> Option<u64> {
        let stat = fs::read_to_string(self.folder().join("cpu.stat")).ok()?;
        stat.lines().find_map(|line| line.strip_prefix("nr_throttled "))?.trim().parse().ok()
    }
}

/// Those of a process, and of the cgroups that its own is in, as far as they can be seen from here.
#[must_use]
pub fn quotas(process: &str) -> Vec<Quota> {
    let cgroups = fs::read_to_string(format!("/proc/{process}/cgroup")).unwrap_or_default();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut found = Vec::new();
    for line in cgroups.lines() {
        // hierarchy-ID:controller-list:cgroup-path
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        let is_v2 = controllers.is_empty();
        if !is_v2 && !controllers.split(',').any(|one| one == "cpu") {
            continue;
        }
        let Some(root) = mount(&mounts, is_v2) else { continue };
        let root = Path::new(root);
        let mut folder = root.join(path.trim_start_matches('/'));
        while folder.starts_with(root) {
            found.extend(if is_v2 { second(&folder) } else { first(&folder) });
            if !folder.pop() {
                break;
            }
        }
    }
    found
}

/// Where cgroups with processors' time are.
fn mount(mounts: &str, is_v2: bool) -> Option<&str> {
    mounts.lines().find_map(|line| {
        let mut words = line.split(' ');
        let (_, target, kind, options) = (words.next()?, words.next()?, words.next()?, words.next()?);
        let is_it = match is_v2 {
            true => kind == "cgroup2",
            false => kind == "cgroup" && options.split(',').any(|option| option == "cpu"),
        };
        is_it.then_some(target)
    })
}

fn second(folder: &Path) -> Option<Quota> {
    let file = folder.join("cpu.max");
    let text = fs::read_to_string(&file).ok()?;
    let (quota, period) = text.trim().split_once(' ')?;
    Some(Quota { quota_us: quota.parse().ok()?, period_us: period.parse().ok()?, file, is_v2: true })
}

fn first(folder: &Path) -> Option<Quota> {
    let file = folder.join("cpu.cfs_quota_us");
    let read = |path: &Path| fs::read_to_string(path).ok()?.trim().parse().ok();
    // -1 is no number of this type: no bound.
    let quota_us = read(&file)?;
    Some(Quota { quota_us, period_us: read(&folder.join("cpu.cfs_period_us"))?, file, is_v2: false })
}

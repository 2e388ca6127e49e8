//! Reads what the hooks count.

use anyhow::{Context as _, Result};
use aya::{
    Pod,
    maps::{MapData, PerCpuArray, PerCpuHashMap, PerCpuValues},
};
use mirror_common::{
    counters::{HookCounters, NearCounters, key, near},
    record::Direction,
};

use crate::affinity;

/// The counters of all hooks.
pub struct Counters {
    near: PerCpuArray<MapData, NearCounters>,
    /// Those whose place in `near` is another's.
    far: PerCpuHashMap<MapData, u32, HookCounters>,
}

impl Counters {
    pub(super) fn new(
        near: PerCpuArray<MapData, NearCounters>,
        far: PerCpuHashMap<MapData, u32, HookCounters>,
    ) -> Self {
        Self { near, far }
    }

    /// Sets up those of an interface and direction, before its hook is attached: hooks do not look at
    /// frames that they cannot count. Counters that are there keep their counts.
    ///
    /// # Errors
    ///
    /// The kernel has no memory, or the map is full: it holds 4096 interfaces at a time.
    pub fn open(&mut self, ifindex: u32, direction: Direction) -> Result<()> {
        let key = key(ifindex, direction);
        let owner = self.near(key)?.0;
        if owner == key || self.far.get(&key, 0).is_ok() {
            return Ok(());
        }
        let set = if owner == 0 {
            let values = on_each_processor(NearCounters { key, ..NearCounters::default() })?;
            self.near.set(near(key), values, 0)
        } else {
            self.far.insert(key, on_each_processor(HookCounters::default())?, 0)
        };
        set.with_context(|| format!("cannot count for interface number {ifindex}"))
    }

    /// Takes those of an interface and direction away. No hook may run any more that counts into them.
    pub fn close(&mut self, ifindex: u32, direction: Direction) {
        let key = key(ifindex, direction);
        let result = self.near(key).and_then(|(owner, _)| {
            if owner == key {
                Ok(self.near.set(near(key), on_each_processor(NearCounters::default())?, 0)?)
            } else {
                Ok(self.far.remove(&key)?)
            }
        });
        if let Err(error) = result {
            log::debug!("giving back the counters of interface number {ifindex}: {error:#}");
        }
    }

    /// The sum over all processors.
    ///
    /// # Errors
    ///
    /// They were never set up.
    pub fn read(&self, ifindex: u32, direction: Direction) -> Result<HookCounters> {
        let key = key(ifindex, direction);
        let (owner, counters) = self.near(key)?;
        if owner == key {
            return Ok(counters);
        }
        let values =
            self.far.get(&key, 0).with_context(|| format!("no counters of interface number {ifindex}"))?;
        Ok(sum(values.iter().copied()))
    }

    /// Whose the near place of `key` is, and the sum of what they counted.
    fn near(&self, key: u32) -> Result<(u32, HookCounters)> {
        let values = self.near.get(&near(key), 0).context("cannot read the hooks' counters")?;
        let owner = values.first().map_or(0, |one| one.key);
        Ok((owner, sum(values.iter().map(|one| one.counters))))
    }
}

fn sum(counters: impl Iterator<Item = HookCounters>) -> HookCounters {
    counters.fold(HookCounters::default(), HookCounters::plus)
}

fn on_each_processor<T: Pod>(value: T) -> Result<PerCpuValues<T>> {
    let cpus = affinity::possible()?;
    PerCpuValues::try_from(vec![value; cpus]).context("cannot lay out counters for each processor")
}

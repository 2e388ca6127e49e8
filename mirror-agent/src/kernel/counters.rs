//! Reads what the hooks count.

use anyhow::{Context as _, Result};
use aya::{
    maps::{MapData, PerCpuHashMap, PerCpuValues},
    util::nr_cpus,
};
use mirror_common::{
    counters::{HookCounters, key},
    record::Direction,
};

/// The counters of all hooks.
pub struct Counters(PerCpuHashMap<MapData, u32, HookCounters>);

impl Counters {
    pub(super) fn new(map: PerCpuHashMap<MapData, u32, HookCounters>) -> Self {
        Self(map)
    }

    /// Makes the entry of an interface and direction, before its hook is attached: hooks do not look at
    /// frames that they cannot count. An entry that exists keeps its counts.
    ///
    /// # Errors
    ///
    /// The kernel has no memory, or the map is full: it holds 4096 interfaces at a time.
    pub fn open(&mut self, ifindex: u32, direction: Direction) -> Result<()> {
        let key = key(ifindex, direction);
        if self.0.get(&key, 0).is_ok() {
            return Ok(());
        }
        let cpus = nr_cpus().map_err(|(_, error)| error).context("cannot count the processors")?;
        let zeros = PerCpuValues::try_from(vec![HookCounters::default(); cpus])
            .context("cannot lay out counters for each processor")?;
        self.0.insert(key, zeros, 0).with_context(|| format!("cannot count for interface number {ifindex}"))
    }

    /// Takes an entry away. No hook may run any more that counts into it.
    pub fn close(&mut self, ifindex: u32, direction: Direction) {
        if let Err(error) = self.0.remove(&key(ifindex, direction)) {
            log::debug!("giving back the counters of interface number {ifindex}: {error}");
        }
    }

    /// The sum over all processors.
    ///
    /// # Errors
    ///
    /// The entry was never opened.
    pub fn read(&self, ifindex: u32, direction: Direction) -> Result<HookCounters> {
        let values = self
            .0
            .get(&key(ifindex, direction), 0)
            .with_context(|| format!("no counters of interface number {ifindex}"))?;
        Ok(values.iter().fold(HookCounters::default(), |sum, one| sum.plus(*one)))
    }
}

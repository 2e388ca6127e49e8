//! The maps of redirect mode: what the agent tells the programs, and what they tell it.

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    maps::{Array, MapData, PerCpuArray, PerCpuHashMap},
};
use mirror_common::{
    pool::{Table, Tally},
    redirect::{Sighting, TEMPLATES, Template, place},
};

use super::load::take_map;
use crate::clock::epoch_minus_monotonic_ns;

/// The maps.
pub struct RedirectMaps {
    templates: Array<MapData, Template>,
    current: Array<MapData, u32>,
    errors: PerCpuHashMap<MapData, u32, u64>,
    sightings: Array<MapData, Sighting>,
    left: Array<MapData, i64>,
    pool: Array<MapData, Table>,
    tallies: PerCpuArray<MapData, Tally>,
    clock: Array<MapData, i64>,
    /// What the programs add to `CLOCK_MONOTONIC`, in nanoseconds.
    since_epoch_ns: i64,
}

impl RedirectMaps {
    pub(super) fn new(ebpf: &mut Ebpf) -> Result<Self> {
        Ok(Self {
            templates: take_map(ebpf, "TEMPLATE")?.try_into()?,
            current: take_map(ebpf, "CURRENT")?.try_into()?,
            errors: take_map(ebpf, "ERRORS")?.try_into()?,
            sightings: take_map(ebpf, "SIGHTINGS")?.try_into()?,
            left: take_map(ebpf, "LEFT")?.try_into()?,
            pool: take_map(ebpf, "POOL")?.try_into()?,
            tallies: take_map(ebpf, "TALLIES")?.try_into()?,
            clock: take_map(ebpf, "CLOCK")?.try_into()?,
            since_epoch_ns: 0,
        })
    }

    /// Has all frames to the sensor with number `destination` leave by `template` from now on.
    ///
    /// # Errors
    ///
    /// None that is known.
    pub fn follow(&mut self, destination: u32, template: Template) -> Result<()> {
        const SAY: &str = "cannot tell the hooks where to send";
        let next = (self.current.get(&destination, 0).context(SAY)? + 1) % TEMPLATES as u32;
        self.templates.set(place(destination, next), template, 0).context(SAY)?;
        self.current.set(destination, next, 0).context(SAY)
    }

    /// What is in force for a sensor; a hook may have found out that it is wrong.
    ///
    /// # Errors
    ///
    /// None that is known.
    pub fn template(&self, destination: u32) -> Result<Template> {
        let current = self.current.get(&destination, 0).context("no template")?;
        self.templates.get(&place(destination, current), 0).context("no template")
    }

    /// Says which of several sensors flows go to.
    ///
    /// # Errors
    ///
    /// None that is known.
    pub fn share_out(&mut self, table: &Table) -> Result<()> {
        self.pool.set(0, table, 0).context("cannot tell the hooks which sensor has which flows")
    }

    /// What was sent to one of several sensors.
    ///
    /// # Errors
    ///
    /// None that is known.
    pub fn tally(&self, destination: u32) -> Result<Tally> {
        let tallies =
            self.tallies.get(&destination, 0).context("cannot read what was sent to each sensor")?;
        Ok(tallies.iter().fold(Tally::default(), |sum, one| Tally {
            datagrams: sum.datagrams + one.datagrams,
            payload: sum.payload + one.payload,
            failed: sum.failed + one.failed,
        }))
    }

    /// What kept frames from leaving: errno, and how often.
    ///
    /// # Errors
    ///
    /// None that is known.
    pub fn errors(&self) -> Result<Vec<(i32, u64)>> {
        self.errors
            .iter()
            .map(|entry| {
                let (errno, counts) = entry.context("cannot read why frames were not sent")?;
                Ok((errno.cast_signed(), counts.iter().sum()))
            })
            .collect()
    }

    /// The last probe that was seen.
    ///
    /// # Errors
    ///
    /// None that is known.
    pub fn sighting(&self) -> Result<Sighting> {
        self.sightings.get(&0, 0).context("cannot read what was seen")
    }

    /// Tells the programs what time of day it is, where that has changed: somebody may set the host's clock.
    ///
    /// # Errors
    ///
    /// None that is known.
    pub fn set_clock(&mut self) -> Result<()> {
        /// A look at the clocks is that exact.
        const JITTER_NS: u64 = 2_000;
        let now = epoch_minus_monotonic_ns();
        if now.abs_diff(self.since_epoch_ns) > JITTER_NS {
            self.clock.set(0, now, 0).context("cannot tell the hooks the time")?;
            self.since_epoch_ns = now;
        }
        Ok(())
    }

    /// Ends the run after `frames`.
    ///
    /// # Errors
    ///
    /// None that is known.
    pub fn limit(&mut self, frames: u64) -> Result<()> {
        let frames = i64::try_from(frames).unwrap_or(i64::MAX);
        self.left.set(0, frames, 0).context("cannot set a limit")
    }

    /// Whether as many frames have come.
    #[must_use]
    pub fn is_limit_reached(&self) -> bool {
        self.left.get(&0, 0).is_ok_and(|left| left <= 0)
    }
}

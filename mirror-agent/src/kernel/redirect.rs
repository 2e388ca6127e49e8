//! The maps of redirect mode: what the agent tells the programs, and what they tell it.

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    maps::{Array, MapData, PerCpuHashMap},
};
use mirror_common::redirect::{Sighting, TEMPLATES, Template};

use super::load::take_map;
use crate::clock::epoch_minus_monotonic_ns;

/// The maps.
pub struct RedirectMaps {
    templates: Array<MapData, Template>,
    current: Array<MapData, u32>,
    errors: PerCpuHashMap<MapData, u32, u64>,
    sightings: Array<MapData, Sighting>,
    left: Array<MapData, i64>,
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
            clock: take_map(ebpf, "CLOCK")?.try_into()?,
            since_epoch_ns: 0,
        })
    }

    /// Has all frames from now on leave by `template`.
    ///
    /// # Errors
    ///
    /// None that is known.
    pub fn follow(&mut self, template: Template) -> Result<()> {
        const SAY: &str = "cannot tell the hooks where to send";
        let next = (self.current.get(&0, 0).context(SAY)? + 1) % TEMPLATES as u32;
        self.templates.set(next, template, 0).context(SAY)?;
        self.current.set(0, next, 0).context(SAY)
    }

    /// What is in force; a hook may have found out that it is wrong.
    ///
    /// # Errors
    ///
    /// None that is known.
    pub fn template(&self) -> Result<Template> {
        let current = self.current.get(&0, 0).context("no template")?;
        self.templates.get(&current, 0).context("no template")
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

//! The shared structs may go into maps from user space.
#![allow(unsafe_code, reason = "aya's Pod is an unsafe trait")]

use crate::{
    budget::Demand,
    counters::{HookCounters, NearCounters},
    own::Path,
    pool::{Table, Tally},
    record::Doorbell,
    redirect::{Sighting, Template},
    settings::Settings,
};

// SAFETY: `repr(C)`, integers and arrays of them only, no padding.
unsafe impl aya::Pod for HookCounters {}
// SAFETY: as above.
unsafe impl aya::Pod for NearCounters {}
// SAFETY: as above.
unsafe impl aya::Pod for Path {}
// SAFETY: as above.
unsafe impl aya::Pod for Settings {}
// SAFETY: as above.
unsafe impl aya::Pod for Doorbell {}
// SAFETY: as above.
unsafe impl aya::Pod for Template {}
// SAFETY: as above.
unsafe impl aya::Pod for Sighting {}
// SAFETY: as above.
unsafe impl aya::Pod for Demand {}
// SAFETY: as above.
unsafe impl aya::Pod for Table {}
// SAFETY: as above.
unsafe impl aya::Pod for Tally {}

//! The guard against echo.

use core::hint::black_box;

use mirror_common::{
    headers::Headers,
    own::{Path, Ports},
};

use crate::maps::{OWN_PATHS, setting};

/// Whether [`leads_to_sensor`] is worth a call.
#[inline(always)]
pub fn may_lead_to_sensor(headers: &Headers) -> bool {
    Path::may_be(headers, is_sensors_port)
}

/// Whether a sensor may listen at a port.
#[inline(always)]
fn is_sensors_port(port: u16) -> bool {
    let only = setting!(sensor_ports.only);
    if only != Ports::SEVERAL {
        return u32::from(port) == only;
    }
    // For the verifier, which wants to see the bound.
    let word = (black_box(usize::from(port)) / 32) & 7;
    // SAFETY: the array has 8 words. Volatile, as in `setting`.
    let bits = unsafe {
        (&raw const crate::maps::SETTINGS.sensor_ports.low_bytes).cast::<u32>().add(word).read_volatile()
    };
    bits >> (port % 32) & 1 != 0
}

/// Whether a packet is on its way from the agent to a sensor. Not 0 is yes.
#[inline(never)]
pub fn leads_to_sensor(headers: &Headers) -> u64 {
    if !may_lead_to_sensor(headers) {
        return 0;
    }
    let path = Path::of(headers);
    // SAFETY: user space only adds paths, so the value is not recycled while it is read.
    let known = unsafe { OWN_PATHS.get(path.number()) };
    u64::from(known.is_some_and(|known| *known == path))
}

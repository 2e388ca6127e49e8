//! The guard against echo.

use mirror_common::{headers::Headers, own::Path};

use crate::maps::{OWN_PATHS, setting};

/// Whether [`leads_to_sensor`] is worth a call.
#[inline(always)]
pub fn may_lead_to_sensor(headers: &Headers) -> bool {
    Path::may_be(headers, setting!(sensor_port) as u16)
}

/// Whether a packet is on its way from the agent to a sensor. Not 0 is yes.
#[inline(never)]
pub fn leads_to_sensor(headers: &Headers) -> u64 {
    let port = setting!(sensor_port) as u16;
    if !Path::may_be(headers, port) {
        return 0;
    }
    let path = Path::of(headers, port);
    // SAFETY: user space only adds paths, so the value is not recycled while it is read.
    let known = unsafe { OWN_PATHS.get(path.number()) };
    u64::from(known.is_some_and(|known| *known == path))
}

//! Where a hook counts.

use mirror_common::{
    counters::{HookCounters, key, near},
    record::Direction,
};

use crate::maps::{COUNTERS, NEAR_COUNTERS};

/// The counters of this interface and direction, on this processor. User space sets them up before it attaches a hook, and
/// takes them away after the hook is gone.
#[inline(always)]
pub fn of(ifindex: u32, direction: Direction) -> Option<*mut HookCounters> {
    let key = key(ifindex, direction);
    if let Some(place) = NEAR_COUNTERS.get_ptr_mut(near(key)) {
        // SAFETY: this processor's own value, of an array whose values stay in place.
        unsafe {
            if (*place).key == key {
                return Some(&raw mut (*place).counters);
            }
        }
    }
    COUNTERS.get_ptr_mut(key)
}

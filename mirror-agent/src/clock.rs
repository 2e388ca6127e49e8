//! What frames' times are told by, and what time of day that is.

use nix::time::{ClockId, clock_gettime};

/// What frames' times are told by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// `CLOCK_MONOTONIC`, as the hooks read it.
    Monotonic,
    /// Nanoseconds since 1970, as captures have them.
    Epoch,
}

/// `CLOCK_MONOTONIC` in nanoseconds.
#[must_use]
pub fn monotonic_ns() -> u64 {
    // The clock is always there, and counts from the start of the machine.
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map_or(0, |time| (time.tv_sec() * 1_000_000_000 + time.tv_nsec()).cast_unsigned())
}

/// What has to be added to `CLOCK_MONOTONIC` to get the time since 1970. To be asked for anew now and then, because the
/// host's clock may be set.
#[must_use]
pub fn epoch_minus_monotonic_ns() -> i64 {
    let now = |clock| clock_gettime(clock).map_or(0, |time| time.tv_sec() * 1_000_000_000 + time.tv_nsec());
    // Of several tries the one with the least time between the readings: the thread may lose its
    // processor there.
    (0..3)
        .map(|_| {
            let before = now(ClockId::CLOCK_MONOTONIC);
            let epoch = now(ClockId::CLOCK_REALTIME);
            let after = now(ClockId::CLOCK_MONOTONIC);
            (after - before, epoch - before - (after - before) / 2)
        })
        .min()
        .map_or(0, |(_, difference)| difference)
}

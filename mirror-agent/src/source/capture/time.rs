//! Times of packets.

use std::ops::RangeInclusive;

/// Nanoseconds of a second.
const SECOND: u32 = 1_000_000_000;

/// How an interface of a pcapng capture tells time: the options if_tsresol and if_tsoffset,
/// draft-ietf-opsawg-pcapng section 4.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Clock {
    unit: Unit,
    /// Nanoseconds to be added.
    offset_ns: i128,
}

/// What a clock counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    /// This many nanoseconds.
    Nanoseconds(u64),
    /// A nanosecond divided by this.
    PartOfNanosecond(u64),
    /// A second divided by 2 to this power.
    BinaryPartOfSecond(u32),
    /// Less than can be told from nothing: 2^64 of them are no nanosecond.
    Nothing,
}

impl Clock {
    /// Of an interface that says nothing: microseconds since the epoch.
    pub(super) const MICROSECONDS: Self = Self { unit: Unit::Nanoseconds(1000), offset_ns: 0 };

    /// `resolution` is what if_tsresol says: with the highest bit 0, the unit is a second divided by 10 to
    /// the power of the other bits, else divided by 2 to that power. `offset` is if_tsoffset, in seconds.
    pub(super) fn new(resolution: u8, offset: i64) -> Self {
        const BINARY: u8 = 0x80;
        const POWERS: RangeInclusive<u32> = 0..=9;
        let power = u32::from(resolution & !BINARY);
        let unit = if resolution & BINARY != 0 {
            Unit::BinaryPartOfSecond(power)
        } else if POWERS.contains(&power) {
            Unit::Nanoseconds(10_u64.pow(POWERS.end() - power))
        } else {
            10_u64.checked_pow(power - POWERS.end()).map_or(Unit::Nothing, Unit::PartOfNanosecond)
        };
        Self { unit, offset_ns: i128::from(offset) * i128::from(SECOND) }
    }

    /// Nanoseconds since the epoch at `count`, rounded down. `None` before 1970, and from 2554 on.
    #[inline]
    pub(super) fn time_ns(&self, count: u64) -> Option<u64> {
        // Nothing overflows: a count and a second in nanoseconds have 64 and 30 bits, an offset 94.
        let ns = match self.unit {
            Unit::Nanoseconds(1) => u128::from(count),
            Unit::Nanoseconds(unit) => u128::from(count) * u128::from(unit),
            Unit::PartOfNanosecond(parts) => u128::from(count / parts),
            Unit::BinaryPartOfSecond(power) => (u128::from(count) * u128::from(SECOND)) >> power,
            Unit::Nothing => 0,
        };
        u64::try_from(ns.cast_signed() + self.offset_ns).ok()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn decimal_units() {
        let time = |resolution, count| Clock::new(resolution, 0).time_ns(count);
        assert_eq!(time(0, 7), Some(7_000_000_000));
        assert_eq!(time(6, 1_700_000_000_123_456), Some(1_700_000_000_123_456_000));
        assert_eq!(Clock::new(6, 0), Clock::MICROSECONDS);
        assert_eq!(time(9, 1_700_000_000_123_456_789), Some(1_700_000_000_123_456_789));
        assert_eq!(time(12, 1_234_567_890_123), Some(1_234_567_890));
        assert_eq!(time(19, u64::MAX), Some(1_844_674_407));
        assert_eq!(time(28, u64::MAX), Some(1));
        assert_eq!(time(29, u64::MAX), Some(0));
        assert_eq!(time(127, u64::MAX), Some(0));
        assert_eq!(time(0, u64::MAX), None);
    }

    #[test]
    fn binary_units() {
        let time = |power: u8, count| Clock::new(0x80 | power, 0).time_ns(count);
        assert_eq!(time(0, 3), Some(3_000_000_000));
        assert_eq!(time(10, 1024 + 512), Some(1_500_000_000));
        assert_eq!(time(32, (5 << 32) + (1 << 31)), Some(5_500_000_000));
        assert_eq!(time(64, u64::MAX), Some(999_999_999));
        assert_eq!(time(127, u64::MAX), Some(0));
    }

    #[test]
    fn offsets_move_the_epoch() {
        assert_eq!(Clock::new(9, 10).time_ns(5), Some(10_000_000_005));
        assert_eq!(Clock::new(9, -10).time_ns(10_000_000_005), Some(5));
        assert_eq!(Clock::new(9, -1).time_ns(999_999_999), None);
        assert_eq!(Clock::new(0, i64::MIN).time_ns(u64::MAX), None);
        assert_eq!(Clock::new(0, i64::MIN).time_ns((1 << 63) + 2), Some(2_000_000_000));
    }

    proptest! {
        #[test]
        fn every_clock_tells_every_time(resolution: u8, offset: i64, count: u64) {
            // The later count is never earlier: that there is no overflow, and no panic.
            let clock = Clock::new(resolution, offset);
            if let (Some(earlier), Some(later)) = (clock.time_ns(count / 2), clock.time_ns(count)) {
                prop_assert!(earlier <= later);
            }
        }

        #[test]
        fn finer_units_tell_the_same_time(seconds in 0_u64..4_000_000_000, power in 0_u8..=9) {
            let expected = Some(seconds * 1_000_000_000);
            prop_assert_eq!(Clock::new(power, 0).time_ns(seconds * 10_u64.pow(power.into())), expected);
            prop_assert_eq!(Clock::new(0x80 | power, 0).time_ns(seconds << power), expected);
        }
    }
}

//! When each frame of a replay is due.
//!
//! Every way of pacing counts something that only grows (time in the capture, frames, bytes) and scales it
//! to nanoseconds since the first frame. Nothing is added up in rounded steps, so nothing drifts.
//!
//! After a stall (the thread had no processor, the output was busy) at most [`BURST_NS`] of traffic leaves
//! at once. The rest is made up for bit by bit: gaps are a tenth shorter until the plan is caught up with.

use std::{
    fmt::{self, Display, Formatter},
    time::Duration,
};

/// `--speed`, `--pps`, `--mbps`, `--delay`, `--topspeed`
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pacing {
    /// This many times as fast as in the capture.
    Speed(f64),
    /// Frames a second.
    FramesPerSecond(f64),
    /// Millions of bits of frames a second, outer headers not counted.
    MegabitsPerSecond(f64),
    /// The same time between any two frames.
    Gap(Duration),
    /// At once.
    TopSpeed,
}

impl Display for Pacing {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Speed(factor) => write!(f, "speed {factor}"),
            Self::FramesPerSecond(rate) => write!(f, "{rate} frames/s"),
            Self::MegabitsPerSecond(rate) => write!(f, "{rate} Mbit/s"),
            Self::Gap(gap) => write!(f, "a frame every {}", humantime::format_duration(*gap)),
            Self::TopSpeed => write!(f, "top speed"),
        }
    }
}

/// Traffic that may leave at once after a stall, in nanoseconds of the plan.
pub const BURST_NS: u64 = 1_000_000;

/// What is late is made up for by gaps shorter by one part in this many.
const CATCH_UP: u64 = 10;

/// A clock in the capture that was set back by this much or more is followed, in nanoseconds; what is
/// less is frames of several queues or processors that were written out of order.
const CLOCK_SET_NS: u64 = 1_000_000_000;

/// Turns frames, one after the other, into points in time. All times are nanoseconds of one clock.
#[derive(Debug)]
pub struct Pace {
    pacing: Pacing,
    /// When the first frame was due.
    start_ns: Option<u64>,
    /// What has been counted before the next frame: nanoseconds, frames, or bytes.
    progress: u64,
    /// When the last frame was to be sent as planned.
    planned_ns: u64,
    /// By how much frames are due later than planned.
    shift_ns: u64,
    /// The greatest time in the capture so far in this file.
    newest_ns: Option<u64>,
    /// That time before the clock was set back, until it is reached again.
    before_set_ns: Option<u64>,
    /// The last frame's time.
    last_ns: u64,
    /// Frames with an earlier time than the one before.
    backward: u64,
    /// Longest time that a frame was late against the plan.
    late_ns: u64,
}

impl Pace {
    /// Nothing sent yet.
    #[must_use]
    pub fn new(pacing: Pacing) -> Self {
        Self {
            pacing,
            start_ns: None,
            progress: 0,
            planned_ns: 0,
            shift_ns: 0,
            newest_ns: None,
            before_set_ns: None,
            last_ns: 0,
            backward: 0,
            late_ns: 0,
        }
    }

    /// Another file, or the same again: its first frame follows the last one with no gap of the captures.
    pub fn begin_file(&mut self) {
        (self.newest_ns, self.before_set_ns) = (None, None);
    }

    /// Whether every frame is due at once, so that nobody has to look at the clock.
    #[must_use]
    pub fn is_top_speed(&self) -> bool {
        self.pacing == Pacing::TopSpeed
    }

    /// When the next frame is due, captured at `time_ns` and `len` bytes long. A time of 0 stands for none:
    /// such a frame belongs to the one before it. To be asked once for each frame, when it is the next one to
    /// be sent.
    pub fn due_ns(&mut self, time_ns: u64, len: usize, now_ns: u64) -> u64 {
        let elapsed = self.capture_time_passed(time_ns);
        let ns_per_unit = match self.pacing {
            Pacing::TopSpeed => return 0,
            Pacing::Speed(factor) => {
                // Times in a capture may be anything.
                self.progress = self.progress.saturating_add(elapsed);
                1.0 / factor
            }
            Pacing::FramesPerSecond(rate) => 1e9 / rate,
            Pacing::MegabitsPerSecond(rate) => 8e3 / rate,
            Pacing::Gap(gap) => gap.as_nanos() as f64,
        };
        let start = *self.start_ns.get_or_insert(now_ns);
        // Saturates where a plan goes beyond the centuries that 64 bits hold.
        let planned = start.saturating_add((self.progress as f64 * ns_per_unit) as u64);
        match self.pacing {
            Pacing::FramesPerSecond(_) | Pacing::Gap(_) => self.progress += 1,
            Pacing::MegabitsPerSecond(_) => self.progress += len as u64,
            Pacing::Speed(_) | Pacing::TopSpeed => {}
        }
        let gap = planned.saturating_sub(self.planned_ns.max(start));
        self.planned_ns = planned;
        self.shift_ns -= self.shift_ns.min(gap / CATCH_UP);
        let due = planned.saturating_add(self.shift_ns);
        let earliest = now_ns.saturating_sub(BURST_NS);
        if due < earliest {
            self.shift_ns = self.shift_ns.saturating_add(earliest - due);
        }
        due.max(earliest)
    }

    /// The frame that was asked about last is sent at `now_ns`.
    pub fn let_through(&mut self, now_ns: u64) {
        self.late_ns = self.late_ns.max(now_ns.saturating_sub(self.planned_ns));
    }

    /// How far the capture's clock went on since the last frame, in nanoseconds.
    fn capture_time_passed(&mut self, time_ns: u64) -> u64 {
        if time_ns == 0 {
            return 0;
        }
        let Some(newest) = self.newest_ns else {
            (self.newest_ns, self.last_ns) = (Some(time_ns), time_ns);
            return 0;
        };
        if time_ns < self.last_ns {
            self.backward += 1;
        }
        self.last_ns = time_ns;
        if time_ns < newest && newest - time_ns < CLOCK_SET_NS {
            return 0;
        }
        self.newest_ns = Some(time_ns);
        if time_ns < newest {
            // One stray frame, or the clock from here on: the next frames tell.
            self.before_set_ns = self.before_set_ns.max(Some(newest));
            return 0;
        }
        let since_before = self.before_set_ns.and_then(|before| time_ns.checked_sub(before));
        if since_before.is_some() {
            self.before_set_ns = None;
        }
        (time_ns - newest).min(since_before.unwrap_or(u64::MAX))
    }

    /// Frames so far whose time is earlier than that of the frame before, in the same file.
    #[must_use]
    pub fn backward(&self) -> u64 {
        self.backward
    }

    /// The longest time so far that a frame was late against the plan, in nanoseconds.
    #[must_use]
    pub fn late_ns(&self) -> u64 {
        self.late_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: u64 = 5_000_000_000;

    /// When frames of 100 bytes, captured at these times, are due for somebody who always looks in time.
    fn due(pacing: Pacing, times: &[u64]) -> Vec<u64> {
        let mut pace = Pace::new(pacing);
        let mut now = T0;
        times
            .iter()
            .map(|&time| {
                now = pace.due_ns(time, 100, now);
                now - T0
            })
            .collect()
    }

    #[test]
    fn each_way_of_pacing() {
        let times = [7_000, 8_000, 8_000, 11_000];
        assert_eq!(due(Pacing::Speed(1.0), &times), [0, 1_000, 1_000, 4_000]);
        assert_eq!(due(Pacing::Speed(4.0), &times), [0, 250, 250, 1_000]);
        assert_eq!(due(Pacing::Speed(0.5), &times), [0, 2_000, 2_000, 8_000]);
        assert_eq!(due(Pacing::FramesPerSecond(3.0), &times), [0, 333_333_333, 666_666_666, 1_000_000_000]);
        assert_eq!(due(Pacing::MegabitsPerSecond(8.0), &times), [0, 100_000, 200_000, 300_000]);
        assert_eq!(due(Pacing::Gap(Duration::from_micros(7)), &times), [0, 7_000, 14_000, 21_000]);
    }

    #[test]
    fn a_rate_does_not_drift_in_a_day() {
        let mut pace = Pace::new(Pacing::FramesPerSecond(99_999.0));
        // One frame of each second of it.
        let mut last = 0;
        for second in 0..86_400_u64 {
            pace.progress = second * 99_999;
            last = pace.due_ns(0, 100, T0 + second * 1_000_000_000);
        }
        assert!(last.abs_diff(T0 + 86_399 * 1_000_000_000) <= 2, "{last}");
    }

    #[test]
    fn times_that_go_backwards_are_sent_in_file_order() {
        let mut pace = Pace::new(Pacing::Speed(1.0));
        let second = 1_000_000_000;
        // Out of order by 2 us; then the clock is set back by an hour.
        let times = [100, 4_000, 2_000, 6_000].map(|ns| 7200 * second + ns);
        let after = [9_000, 10_000].map(|ns| 3600 * second + ns);
        let mut now = T0;
        let due: Vec<_> = times
            .into_iter()
            .chain(after)
            .map(|time| {
                now = pace.due_ns(time, 100, now);
                now - T0
            })
            .collect();
        assert_eq!(due, [0, 3_900, 3_900, 5_900, 5_900, 6_900]);
        assert_eq!(pace.backward(), 2);
    }

    #[test]
    fn a_stray_time_holds_nothing_up() {
        let hour = 3_600_000_000_000;
        let t = 500_000 * hour;
        let speed = Pacing::Speed(1.0);
        assert_eq!(due(speed, &[t, t - hour, t + 10, t + 20]), [0, 0, 10, 20]);
        assert_eq!(due(speed, &[t, 1, 2, t + 10]), [0, 0, 1, 11]);
        assert_eq!(due(speed, &[0, t, 0, t + 10]), [0, 0, 0, 10], "no time at all");
        // Two clocks, an hour apart, by turns.
        assert_eq!(due(speed, &[t, t - hour, t + 5, t - hour + 6, t + 7]), [0, 0, 5, 5, 7]);
    }

    #[test]
    fn the_next_file_follows_at_once() {
        let mut pace = Pace::new(Pacing::Speed(1.0));
        assert_eq!(pace.due_ns(1_000, 100, T0), T0);
        assert_eq!(pace.due_ns(2_000, 100, T0), T0 + 1_000);
        pace.begin_file();
        assert_eq!(pace.due_ns(999_000_000_000, 100, T0 + 1_000), T0 + 1_000);
        assert_eq!(pace.due_ns(999_000_000_500, 100, T0 + 1_000), T0 + 1_500);
        assert_eq!(pace.backward(), 0);
    }

    #[test]
    fn a_stall_is_followed_by_a_millisecond_of_traffic_and_then_made_up_for() {
        let mut pace = Pace::new(Pacing::FramesPerSecond(10_000.0));
        let gap = 100_000;
        let mut now = T0;
        for frame in 0..10 {
            now = pace.due_ns(0, 100, now);
            assert_eq!(now, T0 + frame * gap);
        }
        // 50 ms with no processor: 500 frames behind.
        now += 50_000_000;
        let stalled = now;
        let mut at_once = 0;
        while pace.due_ns(0, 100, now) <= now {
            pace.let_through(now);
            at_once += 1;
        }
        assert!((BURST_NS / gap..=BURST_NS / gap + 2).contains(&at_once), "{at_once} frames at once");
        assert!(pace.late_ns() >= 50_000_000 - gap, "{}", pace.late_ns());
        // From then on never faster than by a tenth, and on time again in the end.
        let mut last = now;
        let mut sent = 10 + at_once + 1;
        loop {
            now = pace.due_ns(0, 100, now);
            assert!(now - last >= gap - gap / CATCH_UP || last == stalled, "{} ns", now - last);
            last = now;
            if now == T0 + sent * gap {
                break;
            }
            sent += 1;
            assert!(sent < 10_000, "{} ns behind", now - (T0 + sent * gap));
        }
    }

    #[test]
    fn no_time_in_a_capture_is_too_wild() {
        let mut pace = Pace::new(Pacing::Speed(1e-9));
        let mut last = 0;
        for time in [1, u64::MAX, 1, u64::MAX, 5, u64::MAX / 2] {
            let due = pace.due_ns(time, 100, T0);
            assert!(due >= last, "{time}");
            last = due;
        }
        assert_eq!(last, u64::MAX, "never");
    }

    #[test]
    fn top_speed_looks_at_no_clock() {
        let mut pace = Pace::new(Pacing::TopSpeed);
        assert!(pace.is_top_speed());
        assert_eq!(pace.due_ns(5_000, 100, T0), 0);
        assert_eq!(pace.due_ns(4_000, 100, T0), 0);
        assert_eq!(pace.backward(), 1);
    }
}

//! What a mirror delivers, and what it loses, when the generator sends as fast as it can.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{interrupt, place::Place, systems::System, traffic::Traffic};

/// Bytes of the outer headers: Ethernet, IPv4, UDP.
const OUTER: u64 = 14 + 20 + 8;
/// From the generator's start until its rate, and a ring's filling, have settled.
const WARM_UP: Duration = Duration::from_millis(150);

/// One measurement.
#[derive(Debug, Clone)]
pub struct FlatOut {
    /// Frames a second that the generator sent, and that reached the sensor, at the same time.
    pub offered: f64,
    pub delivered: f64,
    /// Bits a second of those that reached the sensor, without the outer headers.
    pub bits: f64,
    /// All frames of the run, and those that never arrived.
    pub frames: u64,
    pub lost: u64,
    /// Where they were lost: names of the agent's ledger, `after_send` for those that it had sent, and
    /// `unnamed` where a mirror does not say.
    pub lost_by: BTreeMap<String, u64>,
}

/// Measures for the length of `phase`.
///
/// # Panics
/// Where the generator or the mirror fails.
#[must_use]
pub fn measure(place: &Place, system: &'static System, traffic: Traffic, phase: Duration) -> FlatOut {
    let active = system.start(place);
    let first = place.sensor.received();
    let generator = place.inject(&traffic.frames(), None);
    interrupt::sleep(WARM_UP);
    let (start, sent, before) = (Instant::now(), generator.sent(), place.sensor.received());
    interrupt::sleep(phase);
    let (end, sent_then, after) = (Instant::now(), generator.sent(), place.sensor.received());
    let total = generator.stop();

    // A program that is killed takes what it holds with it; the agent sends it all before it ends.
    let expected = if system.is_nothing() { 0 } else { total.frames };
    let _ = place.sensor.settle(first, expected);
    let report = active.stop();
    let arrived = (place.sensor.received() - first).frames;

    let seconds = (end - start).as_secs_f64();
    let came = after - before;
    let lost = expected.saturating_sub(arrived);
    let mut lost_by = BTreeMap::new();
    if let Some(report) = report {
        lost_by.extend(report.frames.losses().into_iter().map(|(name, count)| (name.to_owned(), count)));
        let named: u64 = lost_by.values().sum();
        lost_by.insert("after_send".into(), lost.saturating_sub(named));
    } else {
        lost_by.insert("unnamed".into(), lost);
    }
    lost_by.retain(|_, count| *count > 0);
    FlatOut {
        offered: (sent_then - sent) as f64 / seconds,
        delivered: came.frames as f64 / seconds,
        bits: came.bytes.saturating_sub((OUTER + system.tunnel_len()) * came.frames) as f64 * 8.0 / seconds,
        frames: total.frames,
        lost,
        lost_by,
    }
}

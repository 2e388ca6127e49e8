//! A TCP connection through the mirrored interface, by iperf3.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{interrupt, place::Place, systems::System};
use crate::{agent::Agent, lab::ROUTER};

/// Longest wait for the server to listen.
const START: Duration = Duration::from_secs(5);
/// Longer than iperf3's own time by this is too long.
const GRACE: Duration = Duration::from_secs(10);
/// Headers of each datagram at the sensor: Ethernet and IPv4; and further in, once per mirrored frame: UDP,
/// the tunnel, Ethernet, IPv4, TCP with time stamps.
const PER_FRAGMENT: u64 = 14 + 20;
const PER_FRAME: u64 = 8 + 14 + 20 + 32;

/// One measurement.
#[derive(Debug, Clone)]
pub struct Tcp {
    /// Bits a second of the stream that reached its receiver.
    pub bits: f64,
    /// Segments that were sent again.
    pub retransmits: u64,
    /// Bytes of the stream that reached the sensor, as a share of those sent. Segments sent again count on
    /// both sides only where the mirror sees them, so it is right to a percent.
    pub arrived: Option<f64>,
    /// Frames that the mirror says it lost, as shares of those that it saw, by its names for why.
    pub lost_by: BTreeMap<String, f64>,
}

/// Measures for `seconds`. The client sends, the router receives.
///
/// # Panics
/// Where iperf3 or the mirror fails.
#[must_use]
pub fn measure(place: &Place, system: &'static System, seconds: u64) -> Tcp {
    let active = system.start(place);
    let (before, fragments) = (place.sensor.received(), place.router.later_fragments());
    let server = Agent::spawn(place.lab.router.command("iperf3").args(["-s", "-1", "-B", ROUTER]));
    let result = client(place, seconds);
    drop(server);
    let _ = place.sensor.settle(before, u64::MAX);
    let report = active.stop();
    let came = place.sensor.received() - before;
    let datagrams = came.frames.saturating_sub(place.router.later_fragments() - fragments);

    let lost_by = report.map(|report| {
        let losses = report.frames.losses().into_iter().filter(|(_, count)| *count > 0);
        losses.map(|(name, count)| (name.to_owned(), count as f64 / report.frames.seen as f64)).collect()
    });
    let end = &result["end"];
    let number = |value: &Value| value.as_f64().expect("a number of iperf3's");
    let payload =
        came.bytes.saturating_sub(PER_FRAGMENT * came.frames + (PER_FRAME + system.tunnel_len()) * datagrams);
    Tcp {
        bits: number(&end["sum_received"]["bits_per_second"]),
        retransmits: end["sum_sent"]["retransmits"].as_u64().unwrap_or_default(),
        arrived: (!system.is_nothing()).then(|| payload as f64 / number(&end["sum_sent"]["bytes"])),
        lost_by: lost_by.unwrap_or_default(),
    }
}

/// Runs the client, again where the server does not listen yet.
fn client(place: &Place, seconds: u64) -> Value {
    let deadline = Instant::now() + START;
    loop {
        let mut command = place.lab.client.command("iperf3");
        let mut client = Agent::spawn(command.args(["-c", ROUTER, "-J", "-t", &seconds.to_string()]));
        let end = Instant::now() + Duration::from_secs(seconds) + GRACE;
        while !client.has_ended() {
            assert!(Instant::now() < end, "iperf3 does not end");
            interrupt::sleep(Duration::from_millis(10));
        }
        let output = client.wait(START);
        let result: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        match result["error"].as_str() {
            None if output.status.success() => return result,
            Some(error) if error.contains("refused") && Instant::now() < deadline => {
                interrupt::sleep(Duration::from_millis(50));
            }
            _ => panic!("iperf3 failed: {}", String::from_utf8_lossy(&output.stdout)),
        }
    }
}

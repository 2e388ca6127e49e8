//! Where it is measured: the usual three hosts, with a link to the sensor that is as a wire.

use std::time::Duration;

use super::{counters::Counters, interrupt};
use crate::{
    captures::udp_frame,
    generator::Generator,
    injector::Injector,
    lab::{Lab, MIRRORED, SENSOR, UPLINK},
};

/// The processor that frames are received on.
pub const PROCESSOR: usize = 0;
/// Tries until a mirror has to mirror, and the time between them.
const TRIES: u32 = 120;
const PAUSE: Duration = Duration::from_millis(25);

/// The hosts and their counters.
#[derive(Debug)]
pub struct Place {
    pub lab: Lab,
    /// The sensor's.
    pub sensor: Counters,
    /// The router's.
    pub router: Counters,
}

impl Place {
    /// Makes the hosts.
    ///
    /// # Panics
    /// Where they cannot be made.
    #[must_use]
    pub fn new() -> Self {
        let lab = Lab::new();
        // A veth hands datagrams that a card has yet to cut over whole, which no wire does.
        lab.router.run(&format!(
            "ethtool -K {UPLINK} tx-udp-segmentation off tx-udp_tnl-segmentation off \
             tx-udp_tnl-csum-segmentation off"
        ));
        // Not the sensor's own address: its host counts what comes, and drops it as others' frames, before
        // anything else looks at it. A sensor's work is not measured here, and on this machine it would be
        // done by the processor of whoever sends.
        lab.router.ip(&format!("neigh replace {SENSOR} lladdr 02:00:00:00:20:99 dev {UPLINK} nud permanent"));
        lab.router
            .ip(&format!("neigh replace 10.10.0.2 lladdr 02:00:00:00:10:02 dev {MIRRORED} nud permanent"));
        lab.client.ip("neigh replace 10.10.0.1 lladdr 02:00:00:00:10:01 dev eth0 nud permanent");
        let (sensor, router) = (Counters::of(&lab.sensor, "eth0"), Counters::of(&lab.router, MIRRORED));
        Self { lab, sensor, router }
    }

    /// Has the mirrored interface receive `frames` over and over, flat out or so many a second.
    #[must_use]
    pub fn inject(&self, frames: &[Vec<u8>], rate: Option<u64>) -> Injector {
        Injector::start(&self.lab.router, MIRRORED, frames, rate, PROCESSOR)
    }

    /// Sends a frame now and then until one arrives at the sensor; false where none does.
    #[must_use]
    pub fn is_mirrored(&self) -> bool {
        let before = self.sensor.received();
        for _ in 0..TRIES {
            let _ = Generator::new("eth0").send_frames(&self.lab.client, vec![udp_frame(0, 64)]);
            interrupt::sleep(PAUSE);
            if self.sensor.received() != before {
                // Some hold frames for a moment: those must not be counted later.
                let _ = self.sensor.settle(before, u64::MAX);
                return true;
            }
        }
        false
    }
}

impl Default for Place {
    fn default() -> Self {
        Self::new()
    }
}

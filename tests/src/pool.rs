//! Several sensors behind one router, each with a link of its own, and flows that can be told apart.
//!
//! ```text
//!  client eth0 ---- eth0 router up1 ---- eth0 sensor 1
//!  10.10.0.2     10.10.0.1   10.30.1.1     10.30.1.2
//!                            up2 ---- eth0 sensor 2 ...
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use crate::{
    frames::checksum::Sum,
    generator::{Generator, Running},
    host::Host,
    lab::VXLAN_PORT,
    link::veth,
    sensor::{Datagram, Sensor, Totals},
    tap::Tap,
};

/// The hosts.
#[derive(Debug)]
pub struct PoolLab {
    pub client: Host,
    pub router: Host,
    pub sensors: Vec<Host>,
}

impl PoolLab {
    /// With so many sensors; IPv4 only.
    ///
    /// # Panics
    /// Where a host or a link cannot be made.
    #[must_use]
    pub fn new(sensors: u32) -> Self {
        Self::with(sensors, Host::new)
    }

    /// As [`PoolLab::new`], where the router and the sensors have IPv6 too: `fd30:N::1` and `fd30:N::2`.
    ///
    /// # Panics
    /// Where a host or a link cannot be made.
    #[must_use]
    pub fn with_ipv6(sensors: u32) -> Self {
        let lab = Self::with(sensors, Host::with_ipv6);
        for (number, sensor) in (1..).zip(&lab.sensors) {
            lab.router.address(&format!("up{number}"), &format!("fd30:{number}::1/64"));
            sensor.address("eth0", &format!("fd30:{number}::2/64"));
        }
        lab
    }

    fn with(sensors: u32, host: impl Fn(&str) -> Host) -> Self {
        let (client, router) = (host("client"), host("router"));
        veth(&router, "eth0", &client, "eth0");
        client.address("eth0", "10.10.0.2/24");
        router.address("eth0", "10.10.0.1/24");
        let sensor = |number: u32| {
            let (sensor, uplink) = (host(&format!("sensor{number}")), format!("up{number}"));
            veth(&router, &uplink, &sensor, "eth0");
            router.mtu(&uplink, 2000);
            sensor.mtu("eth0", 2000);
            router.address(&uplink, &format!("10.30.{number}.1/24"));
            sensor.address("eth0", &format!("10.30.{number}.2/24"));
            sensor
        };
        let sensors = (1..=sensors).map(sensor).collect();
        Self { client, router, sensors }
    }

    /// The arguments that name all sensors.
    #[must_use]
    pub fn dests(&self) -> String {
        let dests: Vec<_> =
            (1..=self.sensors.len()).map(|number| format!("--dest {}", address(number))).collect();
        dests.join(" ")
    }

    /// Counts the VXLAN datagrams that arrive at each sensor's interface, whether or not anybody listens.
    #[must_use]
    pub fn taps(&self) -> Vec<Tap> {
        self.sensors.iter().map(|sensor| Tap::incoming_vxlan(sensor, "eth0")).collect()
    }
}

/// The address of the sensor with a number from 1 on.
#[must_use]
pub fn address(number: usize) -> String {
    format!("10.30.{number}.2")
}

/// A frame of a flow: UDP over IPv4 between two hosts that are nobody's, with at its end the flow, the round, and which
/// way it goes.
#[must_use]
pub fn frame(flow: u32, round: u32, reply: bool) -> Vec<u8> {
    let (client, server) = ([10, 77, (flow >> 8) as u8, flow as u8], [10, 78, 0, 1]);
    let (client_port, server_port) = (20_000 + (flow % 7) as u16, 443_u16);
    let (from, to) = if reply { (server, client) } else { (client, server) };
    let ports = if reply { [server_port, client_port] } else { [client_port, server_port] };
    let mut payload = vec![0x55; 9];
    payload.extend(flow.to_be_bytes());
    payload.extend(round.to_be_bytes());
    payload.push(u8::from(reply));
    let mut ip = vec![0x45, 0, 0, (28 + payload.len()) as u8, 0, 0, 0x40, 0, 64, 17, 0, 0];
    ip.extend(from.iter().chain(&to));
    let sum = Sum::default().with(&ip).finish();
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut frame = vec![2, 0, 0, 0, 0x77, 1, 2, 0, 0, 0, 0x77, 2, 8, 0];
    frame.extend(ip);
    frame.extend(ports.iter().flat_map(|port| port.to_be_bytes()));
    // No checksum.
    frame.extend([0, 8 + payload.len() as u8, 0, 0]);
    frame.extend(payload);
    frame
}

/// Flow, round, and whether it is a reply; `None` where it is no such frame.
#[must_use]
pub fn read(frame: &[u8]) -> Option<(u32, u32, bool)> {
    let is_ours = frame.get(..6) == Some(&[2, 0, 0, 0, 0x77, 1]);
    let (rest, reply) = frame.split_last_chunk::<1>()?;
    let (rest, round) = rest.split_last_chunk()?;
    let (_, flow) = rest.split_last_chunk()?;
    is_ours.then(|| (u32::from_be_bytes(*flow), u32::from_be_bytes(*round), reply[0] != 0))
}

/// Whether a frame is a UDP datagram, over IPv4 without options or IPv6 without extensions: hosts here have nothing else
/// to say to each other than about addresses.
fn is_datagram(frame: &[u8]) -> bool {
    let protocol = match frame.get(12..14) {
        Some([0x08, 0x00]) => frame.get(23),
        Some([0x86, 0xdd]) => frame.get(20),
        _ => None,
    };
    protocol == Some(&17)
}

/// The round of frames that only keep the flows going.
const FILLER: u32 = u32::MAX;

/// Sends a round: each flow's question and answer, `flows` in all.
pub fn send_round(lab: &PoolLab, flows: u32, round: u32) {
    let list = (0..flows).flat_map(|flow| [false, true].map(|reply| frame(flow, round, reply)));
    Generator::new("eth0").rate(25_000).send_frames(&lab.client, list.collect());
}

/// Sends frames of all flows in turn, at this rate, until it is stopped.
#[must_use]
pub fn keep_going(lab: &PoolLab, flows: u32, rate: u64) -> Running {
    let list: Vec<_> = (0..flows).map(|flow| frame(flow, FILLER, false)).collect();
    Generator::new("eth0").rate(rate).cycle(&lab.client, list)
}

/// By round and flow: the sensors' numbers from 1 on, and how many frames in all.
type ByFlow = BTreeMap<(u32, u32), (BTreeSet<usize>, u32)>;

/// Which sensors got what of each round.
#[derive(Clone, Debug, Default)]
pub struct Arrivals(Arc<Mutex<ByFlow>>);

impl Arrivals {
    /// A sensor that writes down here what it gets. Its own state is how many mirrored datagrams there are among the
    /// frames.
    ///
    /// # Panics
    /// Where the port is taken.
    #[must_use]
    pub fn listen(&self, lab: &PoolLab, number: usize) -> Sensor<u64> {
        self.listen_on(lab, number, VXLAN_PORT)
    }

    /// As [`Arrivals::listen`], on another port.
    ///
    /// # Panics
    /// Where the port is taken.
    #[must_use]
    pub fn listen_on(&self, lab: &PoolLab, number: usize, port: u16) -> Sensor<u64> {
        let all = self.0.clone();
        let look = move |echoes: &mut u64, datagram: Datagram<'_>| {
            let Some((flow, round, _)) = read(datagram.frame) else {
                *echoes += u64::from(is_datagram(datagram.frame));
                return;
            };
            if round != FILLER {
                let mut all = all.lock().unwrap();
                let (sensors, frames) = all.entry((round, flow)).or_default();
                sensors.insert(number);
                *frames += 1;
            }
        };
        Sensor::start_on(&lab.sensors[number - 1], port, 0, look)
    }

    /// Waits until so many frames of each flow are there, for a while. Gives whether they are.
    ///
    /// # Panics
    /// Where a sensor panicked.
    #[must_use]
    pub fn wait_for(&self, flows: u32, round: u32, frames_each: u32) -> bool {
        let deadline = Instant::now() + Duration::from_secs(5);
        let is_there = |all: &ByFlow| {
            let of_round = all.range((round, 0)..(round, flows));
            of_round.filter(|(_, (_, frames))| *frames >= frames_each).count() == flows as usize
        };
        loop {
            if is_there(&self.0.lock().unwrap()) {
                return true;
            }
            if Instant::now() > deadline {
                return false;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// The one sensor of each flow in a round.
    ///
    /// # Panics
    /// Where a flow is not there whole, both ways at one sensor and each frame once.
    #[must_use]
    pub fn owners(&self, flows: u32, round: u32) -> Vec<usize> {
        let _ = self.wait_for(flows, round, 2);
        let all = self.0.lock().unwrap().clone();
        (0..flows)
            .map(|flow| {
                let (sensors, frames) = all
                    .get(&(round, flow))
                    .unwrap_or_else(|| panic!("flow {flow} of round {round} is missing"));
                assert_eq!(
                    (sensors.len(), *frames),
                    (1, 2),
                    "flow {flow} of round {round} at sensors {sensors:?}"
                );
                *sensors.first().unwrap()
            })
            .collect()
    }

    /// The sensors at which each flow of a round arrived, with so many frames in all: the same for all.
    ///
    /// # Panics
    /// Where it is not the same.
    #[must_use]
    pub fn everywhere(&self, flows: u32, round: u32, frames: u32) -> Vec<usize> {
        let _ = self.wait_for(flows, round, frames);
        let all = self.0.lock().unwrap().clone();
        let of = |flow| {
            all.get(&(round, flow)).unwrap_or_else(|| panic!("flow {flow} of round {round} is missing"))
        };
        let first = of(0);
        (0..flows).for_each(|flow| assert_eq!(of(flow), first, "flow {flow} of round {round}"));
        assert_eq!(first.1, frames, "frames of a flow, at sensors {:?}", first.0);
        first.0.iter().copied().collect()
    }
}

/// How many flows each of `sensors` sensors has.
#[must_use]
pub fn spread(owners: &[usize], sensors: usize) -> Vec<usize> {
    (1..=sensors).map(|number| owners.iter().filter(|owner| **owner == number).count()).collect()
}

/// Ends sensors, after what is on its way has arrived.
///
/// # Panics
/// Where a sensor got the agent's own datagrams, mirrored.
#[must_use]
pub fn finish(sensors: Vec<Sensor<u64>>) -> Vec<Totals> {
    thread::sleep(Duration::from_millis(100));
    let end = |sensor: Sensor<u64>| {
        let (echoes, totals) = sensor.finish();
        assert_eq!(echoes, 0, "datagrams of the agent's own that were mirrored again");
        totals
    };
    sensors.into_iter().map(end).collect()
}

//! Compares what a sensor got with the crafted frames that were sent, while it comes in.

use std::{collections::HashMap, net::IpAddr, ops::Range};

use crate::{
    frames::{self, Flow, Plan},
    lab::{DEFAULT_VNI, ROUTER_UPLINK},
    sensor::Datagram,
};

/// Faults written out; the rest is only counted.
const SHOWN: usize = 10;

/// The state of a comparison.
#[derive(Debug)]
pub struct Check {
    numbers: Range<u64>,
    vni: u32,
    source: IpAddr,
    arrived: Vec<bool>,
    count: u64,
    bytes: u64,
    buffer: Vec<u8>,
    /// The port of each flow, and the number of its last frame.
    flows: HashMap<Flow, (u16, u64)>,
    /// The last number from each port.
    ports: HashMap<u16, u64>,
    faults: Vec<String>,
    fault_count: u64,
}

impl Check {
    /// Expects the frames with these numbers, in this order within each flow and each source port, with
    /// the usual VNI.
    #[must_use]
    pub fn new(numbers: Range<u64>) -> Self {
        Self {
            vni: DEFAULT_VNI,
            source: ROUTER_UPLINK.parse().unwrap(),
            arrived: vec![false; (numbers.end - numbers.start) as usize],
            numbers,
            count: 0,
            bytes: 0,
            buffer: Vec::new(),
            flows: HashMap::new(),
            ports: HashMap::new(),
            faults: Vec::new(),
            fault_count: 0,
        }
    }

    /// Expects another VNI.
    #[must_use]
    pub fn vni(self, vni: u32) -> Self {
        Self { vni, ..self }
    }

    /// Expects the datagrams from another address.
    ///
    /// # Panics
    /// Where it is no IP address.
    #[must_use]
    pub fn from(self, source: &str) -> Self {
        Self { source: source.parse().unwrap(), ..self }
    }

    /// Looks at a datagram.
    pub fn look(&mut self, datagram: Datagram<'_>) {
        self.count += 1;
        self.bytes += datagram.frame.len() as u64;
        let port = datagram.source.port();
        if datagram.vni != self.vni || datagram.source.ip() != self.source || port < 49_152 {
            self.fault(|| format!("VNI {} from {}", datagram.vni, datagram.source));
        }
        let Some(index) = frames::index_of(datagram.frame).filter(|index| self.numbers.contains(index))
        else {
            return self.fault(|| format!("no such frame was sent: {}", hex(datagram.frame)));
        };
        let plan = Plan::of(index);
        let mut buffer = std::mem::take(&mut self.buffer);
        plan.write(&mut buffer);
        if buffer != datagram.frame {
            self.fault(|| {
                let at = buffer.iter().zip(datagram.frame).position(|(a, b)| a != b);
                format!(
                    "frame {index} ({:?}) was changed at {at:?}:\n sent {}\n  got {}",
                    plan.kind,
                    hex(&buffer),
                    hex(datagram.frame)
                )
            });
        }
        self.buffer = buffer;
        let seen = &mut self.arrived[(index - self.numbers.start) as usize];
        if std::mem::replace(seen, true) {
            self.fault(|| format!("frame {index} ({:?}) came twice", plan.kind));
        }
        if let Some(last) = self.ports.insert(port, index)
            && last >= index
        {
            self.fault(|| format!("frame {index} ({:?}) after {last} from port {port}", plan.kind));
        }
        if let Some(flow) = plan.flow()
            && let Some((first_port, last)) = self.flows.insert(flow, (port, index))
        {
            if first_port != port {
                self.fault(|| {
                    format!(
                        "frame {index} ({:?}) from port {port}, {last} of its flow from {first_port}",
                        plan.kind
                    )
                });
            }
            if last >= index {
                self.fault(|| format!("frame {index} ({:?}) after {last} of its flow", plan.kind));
            }
        }
    }

    fn fault(&mut self, text: impl FnOnce() -> String) {
        self.fault_count += 1;
        if self.faults.len() < SHOWN {
            self.faults.push(text());
        }
    }

    /// How many frames came.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Bytes of frames that came.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many source ports there were.
    #[must_use]
    pub fn ports(&self) -> usize {
        self.ports.len()
    }

    /// How many flows there were.
    #[must_use]
    pub fn flows(&self) -> usize {
        self.flows.len()
    }

    /// Checks that what came was right. Some may be missing.
    ///
    /// # Panics
    /// Where a frame was changed, came twice or out of order, or from a wrong port.
    pub fn assert_right(&self) {
        assert!(self.fault_count == 0, "{} faults, such as:\n{}", self.fault_count, self.faults.join("\n"));
    }

    /// Checks that everything came, and right.
    ///
    /// # Panics
    /// Where something was missing or wrong.
    pub fn assert_complete(&self) {
        self.assert_right();
        let mut missing =
            (self.numbers.clone()).zip(&self.arrived).filter(|(_, arrived)| !**arrived).map(|(n, _)| n);
        if let Some(first) = missing.next() {
            let kind = Plan::of(first).kind;
            panic!(
                "{} of {} frames are missing, the first is {first} ({kind:?})",
                missing.count() + 1,
                self.arrived.len()
            );
        }
    }
}

/// The first bytes of a frame, and how long it is.
fn hex(frame: &[u8]) -> String {
    let bytes: String = frame.iter().take(96).map(|byte| format!("{byte:02x}")).collect();
    format!("{bytes}{} ({} bytes)", if frame.len() > 96 { "..." } else { "" }, frame.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hands frames to a check from the port that each is given.
    fn check(numbers: Range<u64>, frames: &[(u16, Vec<u8>)]) -> Check {
        let mut check = Check::new(numbers);
        for (port, frame) in frames {
            let source = (ROUTER_UPLINK.parse::<IpAddr>().unwrap(), *port).into();
            check.look(Datagram { source, vni: DEFAULT_VNI, told: None, frame, time: 0 });
        }
        check
    }

    fn port_of(index: u64) -> u16 {
        // One port for each flow, as an agent would choose it.
        let Some(flow) = Plan::of(index).flow() else { return 49_152 };
        let mut hasher = std::hash::DefaultHasher::new();
        std::hash::Hash::hash(&flow, &mut hasher);
        49_153 + (std::hash::Hasher::finish(&hasher) % 16_000) as u16
    }

    fn good(numbers: Range<u64>) -> Vec<(u16, Vec<u8>)> {
        numbers.map(|index| (port_of(index), frames::frame(index))).collect()
    }

    fn faults(check: &Check) -> String {
        check.faults.join("\n")
    }

    #[test]
    fn what_was_sent_is_complete() {
        let check = check(5..2_000, &good(5..2_000));
        check.assert_complete();
        assert_eq!(check.count(), 1_995);
        assert!(check.ports() > 500);
    }

    #[test]
    fn each_kind_of_damage_is_found() {
        let numbers = 0..2_000;
        let mut frames = good(numbers.clone());
        frames[700].1[30] ^= 1;
        assert!(faults(&check(numbers.clone(), &frames)).contains("frame 700 "), "one bit");

        let mut frames = good(numbers.clone());
        let cut = frames[700].1.len() - 8;
        frames[700].1.drain(20..20 + 4.min(cut));
        assert!(faults(&check(numbers.clone(), &frames)).contains("frame 700 "), "bytes left out");

        let mut frames = good(numbers.clone());
        let twice = frames[900].clone();
        frames.push(twice);
        assert!(faults(&check(numbers.clone(), &frames)).contains("came twice"));

        let mut frames = good(numbers.clone());
        frames.remove(3);
        let missing = check(numbers.clone(), &frames);
        missing.assert_right();
        assert!(std::panic::catch_unwind(|| missing.assert_complete()).is_err(), "one is missing");

        let mut frames = good(numbers.clone());
        frames.push((50_000, frames::frame(2_000)));
        assert!(faults(&check(numbers.clone(), &frames)).contains("no such frame"));

        // A frame and the next of its flow change places.
        let mut frames = good(numbers.clone());
        let next_of = |first: usize| {
            let flow = Plan::of(first as u64).flow()?;
            (first + 1..2_000).find(|index| Plan::of(*index as u64).flow() == Some(flow))
        };
        let (first, next) =
            (0..2_000).find_map(|first| Some((first, next_of(first)?))).expect("a flow of two frames");
        frames.swap(first, next);
        assert!(faults(&check(numbers.clone(), &frames)).contains("after"), "order");

        let mut frames = good(numbers.clone());
        frames[next].0 = 49_999;
        assert!(faults(&check(numbers, &frames)).contains("of its flow from"), "port");
    }
}

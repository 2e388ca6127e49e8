//! The outer headers from UDP on: they say to the receiver which network a frame belongs to, and with GENEVE what is known
//! of it.

use std::{
    collections::HashMap,
    ops::Deref,
    time::{Duration, Instant},
};

use mirror_common::{
    flow,
    geneve::{self, Metadata},
    udp, vxlan,
};

use super::tunnel::{Encap, Tunnel};
use crate::{
    clock::{Clock, epoch_minus_monotonic_ns},
    names::Names,
    source::Frame,
};

/// Bytes of the longest headers: UDP, GENEVE, its option.
pub const HEADERS_MAX: usize = udp::HEADER_LEN + geneve::BASE_LEN + geneve::OPTION_LEN;

/// How often it is asked what the time of day is: somebody may set the host's clock.
const CLOCK_PERIOD: Duration = Duration::from_millis(10);

/// The headers of one datagram, in wire order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers {
    bytes: [u8; HEADERS_MAX],
    length: usize,
}

impl Headers {
    /// None yet.
    pub const EMPTY: Self = Self { bytes: [0; HEADERS_MAX], length: 0 };

    /// They, and zeros behind: a copy of known length takes few instructions.
    #[inline(always)]
    pub(super) fn padded(&self) -> &[u8; HEADERS_MAX] {
        &self.bytes
    }

    /// Puts another source port into the UDP header.
    pub(crate) fn set_source_port(&mut self, port: u16) {
        self.bytes[..2].copy_from_slice(&port.to_be_bytes());
    }

    /// Puts a checksum into the UDP header.
    pub(super) fn set_udp_checksum(&mut self, checksum: u16) {
        self.bytes[6..8].copy_from_slice(&checksum.to_be_bytes());
    }
}

impl Deref for Headers {
    type Target = [u8];

    #[inline(always)]
    fn deref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// What the headers of datagrams to all sensors have in common.
#[derive(Clone, Debug)]
pub struct Wrapping {
    /// How frames are wrapped.
    pub tunnel: Tunnel,
    /// Which interface has which number.
    pub names: Names,
    /// What frames' times are told by.
    pub clock: Clock,
}

impl Wrapping {
    /// What makes the headers of datagrams to `port` of a sensor.
    #[must_use]
    pub fn to(&self, port: u16) -> Encapsulation {
        Encapsulation::new(port, self.tunnel.clone(), self.names.clone(), self.clock)
    }
}

/// What makes the headers of the datagrams to one sensor. Each sending thread has its own.
#[derive(Clone, Debug)]
pub struct Encapsulation {
    port: u16,
    tunnel: Tunnel,
    clock: Clock,
    /// What has to be added to a frame's time to get the time since 1970.
    since_epoch_ns: i64,
    clock_due: Instant,
    vnis: Option<Vnis>,
}

impl Encapsulation {
    /// To `port` of the sensor. Frames' times are told by `clock`. `names` tells which interface has which number.
    #[must_use]
    pub fn new(port: u16, tunnel: Tunnel, names: Names, clock: Clock) -> Self {
        let vnis = tunnel.has_own_vnis().then(|| Vnis::new(names));
        let mut made = Self { port, tunnel, clock, since_epoch_ns: 0, clock_due: Instant::now(), vnis };
        made.look_at_clock();
        made
    }

    /// With one network for all, and nothing told of frames.
    #[must_use]
    pub fn vxlan(port: u16, vni: u32) -> Self {
        Self::new(port, Tunnel::new(Encap::Vxlan, vni), Names::default(), Clock::Monotonic)
    }

    /// The protocol.
    #[must_use]
    pub fn encap(&self) -> Encap {
        self.tunnel.encap
    }

    /// Network identifier of what has none of its own.
    #[must_use]
    pub fn vni(&self) -> u32 {
        self.tunnel.vni
    }

    /// Whether an interface has a network of its own.
    #[must_use]
    pub fn has_own_vnis(&self) -> bool {
        self.vnis.is_some()
    }

    /// Bytes of the headers, UDP's included.
    #[must_use]
    pub fn headers_len(&self) -> usize {
        udp::HEADER_LEN + self.tunnel.encap.header_len()
    }

    /// Looks at the clocks, if that is due. Until the next call the same frame gets the same headers.
    #[inline]
    pub fn look_at_clock(&mut self) {
        if self.clock == Clock::Epoch || !self.tunnel.encap.has_metadata() {
            return;
        }
        let now = Instant::now();
        if now >= self.clock_due {
            self.clock_due = now + CLOCK_PERIOD;
            self.since_epoch_ns = epoch_minus_monotonic_ns();
        }
    }

    /// The headers of a frame's datagram.
    #[inline]
    #[must_use]
    pub fn headers(&mut self, frame: &Frame<'_>) -> Headers {
        let header = frame.header;
        let vni = match &mut self.vnis {
            None => self.tunnel.vni,
            Some(vnis) => vnis.of(header.ifindex, &self.tunnel),
        };
        let encap = self.tunnel.encap;
        let mut headers = Headers { bytes: [0; HEADERS_MAX], length: self.headers_len() };
        let (udp, tunnel) = headers.bytes.split_at_mut(udp::HEADER_LEN);
        udp.copy_from_slice(&udp::header(
            flow::source_port(header.flow_hash),
            self.port,
            encap.header_len() + frame.captured_len(),
        ));
        let (base, option) = tunnel.split_at_mut(geneve::BASE_LEN);
        match encap {
            Encap::Vxlan => base.copy_from_slice(&vxlan::header(vni)),
            Encap::Geneve { has_metadata: false } => base.copy_from_slice(&geneve::header(vni, 0)),
            Encap::Geneve { has_metadata: true } => {
                base.copy_from_slice(&geneve::header(vni, geneve::OPTION_LEN));
                option.copy_from_slice(&self.metadata(frame).option());
            }
        }
        headers
    }

    #[inline]
    fn metadata(&self, frame: &Frame<'_>) -> Metadata {
        let header = frame.header;
        Metadata {
            // 0 says that it is not known.
            time_ns: if header.time_ns == 0 {
                0
            } else {
                header.time_ns.saturating_add_signed(self.since_epoch_ns)
            },
            wire_len: frame.wire_len,
            direction: header.direction,
            // In a replay the first interface has number 0, which in the option stands for none.
            ifindex: header.ifindex.wrapping_add(u32::from(self.clock == Clock::Epoch)),
        }
    }
}

/// The networks of interfaces by number, looked up by name once for each.
#[derive(Clone, Debug)]
struct Vnis {
    names: Names,
    /// Number and network of the interface that the last frame came from.
    last: Option<(u32, u32)>,
    known: HashMap<u32, u32>,
}

impl Vnis {
    fn new(names: Names) -> Self {
        Self { names, last: None, known: HashMap::new() }
    }

    #[inline]
    fn of(&mut self, ifindex: u32, tunnel: &Tunnel) -> u32 {
        match self.last {
            Some((last, vni)) if last == ifindex => vni,
            _ => self.look_up(ifindex, tunnel),
        }
    }

    #[inline(never)]
    fn look_up(&mut self, ifindex: u32, tunnel: &Tunnel) -> u32 {
        /// Interfaces that are kept in mind, so that those that come and go do not add up.
        const KNOWN_MAX: usize = 4096;
        if self.known.len() >= KNOWN_MAX {
            self.known.clear();
        }
        // Names are known before a hook is attached, and stay.
        let names = &self.names;
        let look_up = || names.get(ifindex).map_or(tunnel.vni, |name| tunnel.vni_of(&name));
        let vni = *self.known.entry(ifindex).or_insert_with(look_up);
        self.last = Some((ifindex, vni));
        vni
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::time::{SystemTime, UNIX_EPOCH};

    use mirror_common::{geneve::Payload, record::RecordHeader};

    use super::*;
    use crate::iface_arg::IfaceArg;

    const HEADER: RecordHeader = RecordHeader {
        time_ns: 1_700_000_000_123_456_789,
        ifindex: 7,
        flow_hash: 0x1_0003,
        captured_len: 60,
        original_len: 60,
        direction: 1,
        segmentation: 0,
        gso_size: 0,
        checksum: 0,
    };

    fn geneve(has_metadata: bool, clock: Clock) -> Encapsulation {
        let tunnel = Tunnel::new(Encap::Geneve { has_metadata }, 4242);
        Encapsulation::new(6081, tunnel, Names::default(), clock)
    }

    #[test]
    fn headers_are_in_wire_order() {
        let frame = Frame::whole(&HEADER, &[0; 60]);
        assert_eq!(
            Encapsulation::vxlan(4789, 4242).headers(&frame)[..],
            [0xc0, 0x03, 0x12, 0xb5, 0, 76, 0, 0, 0x08, 0, 0, 0, 0, 0x10, 0x92, 0],
            "source port 49155, port 4789, 8 + 8 + 60 bytes, no checksum, VNI 4242"
        );
        assert_eq!(
            geneve(false, Clock::Epoch).headers(&frame)[..],
            [0xc0, 0x03, 0x17, 0xc1, 0, 76, 0, 0, 0, 0, 0x65, 0x58, 0, 0x10, 0x92, 0],
        );
        let headers = geneve(true, Clock::Epoch).headers(&frame);
        assert_eq!(headers.len(), HEADERS_MAX);
        assert_eq!(headers[4..6], [0, 96], "8 + 8 + 20 + 60 bytes");
    }

    #[test]
    fn metadata_is_that_of_the_frame_on_the_wire() {
        let frame = Frame { wire_len: 1514, ..Frame::whole(&HEADER, &[0; 60]) };
        let headers = geneve(true, Clock::Epoch).headers(&frame);
        let payload = [&headers[8..], &[0; 60]].concat();
        let Payload::Frame { vni: 4242, metadata: Some(metadata), .. } = geneve::decapsulate(&payload) else {
            panic!("{payload:?}");
        };
        let time_ns = HEADER.time_ns;
        assert_eq!(metadata, Metadata { time_ns, wire_len: 1514, direction: 1, ifindex: 8 });
    }

    #[test]
    fn monotonic_times_become_times_of_day() {
        let now = |clock| {
            let time = nix::time::clock_gettime(clock).unwrap();
            (time.tv_sec() * 1_000_000_000 + time.tv_nsec()) as u64
        };
        let mut encapsulation = geneve(true, Clock::Monotonic);
        let time_of = |encapsulation: &mut Encapsulation, time_ns| {
            let header = RecordHeader { time_ns, ..HEADER };
            let headers = encapsulation.headers(&Frame::whole(&header, &[0; 60]));
            u64::from_be_bytes(headers[20..28].try_into().unwrap())
        };
        let told = time_of(&mut encapsulation, now(nix::time::ClockId::CLOCK_MONOTONIC));
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
        assert!(told <= wall && wall - told < 1_000_000_000, "{told} at {wall}");
        assert_eq!(time_of(&mut encapsulation, 0), 0, "not known");
    }

    #[test]
    fn interfaces_have_networks_of_their_own() {
        let names = Names::default();
        names.learn(7, "eth0");
        names.learn(8, "eth1");
        let ifaces = ["eth0=vni:100", "eth1"].map(|text| IfaceArg::parse(text).unwrap());
        let tunnel = Tunnel { ifaces: ifaces.into(), ..Tunnel::new(Encap::Vxlan, 4242) };
        assert_eq!(tunnel.to_string(), "vxlan vni 4242, eth0 vni 100");
        let mut encapsulation = Encapsulation::new(4789, tunnel, names, Clock::Monotonic);
        for (ifindex, vni) in [(7, 100), (7, 100), (8, 4242), (9, 4242), (7, 100)] {
            let header = RecordHeader { ifindex, ..HEADER };
            let headers = encapsulation.headers(&Frame::whole(&header, &[0; 60]));
            assert_eq!(headers[8..], vxlan::header(vni), "{ifindex}");
        }
    }
}

//! From the ring to the sensor: encapsulated, handed to the network, on the wire, at the sensor's socket where that is on
//! this host.

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use mirror_common::record::{Direction, RecordHeader};
use rtnetlink::packet_route::neighbour::NeighbourState;

use super::{
    frame::{LEN, ProbeFrame},
    rig::{self, Caught},
    trail::Trail,
    watch::{Seen, Watch},
};
use crate::{
    doctor::{
        checks::sensor_answers,
        finding::Finding,
        firewall::{self, Chain},
        host::Host,
        next_hop::{self, Way},
        others,
        sockets::{self, UdpSocket},
        udp_counters::{Kind, UdpCounters},
    },
    kernel::own_paths::OwnPaths,
    ledger::OutputCounters,
    links::Link,
    output::{
        Output as _,
        stack::{self, Stack},
    },
    source::Frame,
};

/// How long to wait for a datagram to leave: most often it has when the system call is over; where a neighbour is still to
/// be found it takes longer.
const LEAVE_TIME: Duration = Duration::from_millis(400);

/// How long to wait for it at the sensor's socket, or for an answer.
const ARRIVE_TIME: Duration = Duration::from_millis(200);

/// Between two looks.
const PERIOD: Duration = Duration::from_millis(2);

/// A frame as it comes out of a ring, where none did.
#[must_use]
pub fn made(frame: &ProbeFrame) -> Caught {
    let header =
        RecordHeader { original_len: LEN as u32, captured_len: LEN as u32, ..RecordHeader::default() };
    Caught { header, bytes: frame.bytes().to_vec() }
}

/// How it went.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// What is said of it.
    pub finding: Finding,
    /// Whether the datagram left this host, or went on its way within it.
    pub has_left: bool,
}

/// Sends what came through the ring to a sensor, and follows it. `own_paths` is for the hooks, where there are any.
///
/// # Errors
///
/// It cannot be followed.
pub fn deliver(
    host: &Host,
    sensor: SocketAddr,
    frame: &ProbeFrame,
    caught: &Caught,
    own_paths: Option<&OwnPaths>,
) -> Result<Delivery> {
    let mut has_left = false;
    let finding = follow(host, sensor, frame, caught, own_paths, &mut has_left)?;
    Ok(Delivery { finding, has_left })
}

fn follow(
    host: &Host,
    sensor: SocketAddr,
    frame: &ProbeFrame,
    caught: &Caught,
    own_paths: Option<&OwnPaths>,
    has_left: &mut bool,
) -> Result<Finding> {
    let mut trail = Trail::new(format!("ring to {sensor}"));
    const SAY: &str = "nothing of what is mirrored leaves this host";
    let way = next_hop::find(host, sensor.ip())?;
    if matches!(way, Way::None) {
        return Ok(trail.stopped_by("sent", next_hop::explain_none(host, sensor.ip(), SAY)?));
    }
    let watch = Watch::open(frame.tail()).context("cannot watch where a probe goes")?;
    let encapsulation = rig::wrapping(host).to(sensor.port());
    let changes = host.links().address_changes();
    let mut raw = Stack::open(sensor, stack::Kind::Raw, encapsulation, 0, 1, own_paths.cloned(), changes)?;
    let whole = Frame::whole(&caught.header, &caught.bytes);
    let length = raw.encapsulation_mut().headers(&whole).len() + caught.bytes.len();
    trail.pass(format!("encapsulated ({}, {length} bytes of UDP)", host.encap.name()));
    let before = Arrival::look(sensor)?;
    let counters = OutputCounters::default();
    raw.send(&[whole], &counters)?;
    if let Some(errno) = first_error(&counters) {
        let error = std::io::Error::from_raw_os_error(errno);
        let reason = match (&way, errno) {
            (Way::Through { link, .. }, libc::ENOBUFS) => dropped_at(host, link)?,
            _ => sensor_answers::explain_failure(sensor, &error),
        };
        return Ok(trail.stopped_by("taken by the network", reason));
    }
    let Some(left) = wait_for_datagrams(&watch, 1, LEAVE_TIME)?.pop() else {
        return Ok(trail.stopped_by("on the wire", explain_unseen(host, sensor)?));
    };
    *has_left = true;
    trail.pass(format!("left through {}", name(host, left.ifindex)));
    if matches!(way, Way::Local) {
        return arrive(&trail, sensor, &before);
    }
    thread::sleep(ARRIVE_TIME);
    raw.flush(&counters)?;
    if let Some(errno) = first_error(&counters) {
        let error = std::io::Error::from_raw_os_error(errno);
        return Ok(trail.stopped("taken by the sensor", &format!("{error}: see the check sensor-answers")));
    }
    Ok(trail.arrived())
}

/// Datagrams that the probe is the end of, as they left, each once, though there may be several interfaces on their way;
/// waits until there are `count`.
///
/// # Errors
///
/// The watch ends.
pub fn wait_for_datagrams(watch: &Watch, count: usize, time: Duration) -> Result<Vec<Seen>> {
    let deadline = Instant::now() + time;
    let mut all = Vec::<Seen>::new();
    loop {
        let seen = watch.look().context("cannot watch where a probe goes")?;
        // Shorter than any with outer headers.
        const SHORTEST: usize = LEN + 20 + 8 + 8;
        all.extend(seen.into_iter().filter(|seen| seen.is_outgoing && seen.bytes.len() >= SHORTEST));
        if all.len() >= count || Instant::now() >= deadline {
            return Ok(all);
        }
        thread::sleep(PERIOD);
    }
}

/// The name of an interface.
pub fn name(host: &Host, ifindex: u32) -> String {
    host.link(ifindex).map_or_else(|| format!("interface number {ifindex}"), |link| link.name.clone())
}

fn first_error(counters: &OutputCounters) -> Option<i32> {
    counters.errors().next().map(|(errno, _)| errno)
}

/// The queue did not take a datagram, or a program on its hook dropped it.
pub fn dropped_at(host: &Host, link: &Link) -> Result<Finding> {
    let on_hook = others::on_hook(host, link, Direction::Egress)?;
    let found = if on_hook.is_empty() {
        format!("the queue of {} drops it (`tc -s qdisc show dev {}` counts)", link.name, link.name)
    } else {
        format!("dropped on {}'s egress hook or in its queue: {}", link.name, others::list(&on_hook))
    };
    Ok(others::take_away(Finding::fail(found, ""), on_hook))
}

/// Why a datagram that the stack has taken is not seen to leave.
fn explain_unseen(host: &Host, sensor: SocketAddr) -> Result<Finding> {
    Ok(match next_hop::find(host, sensor.ip())? {
        Way::Through { link, hop, neighbour: Some(NeighbourState::Incomplete | NeighbourState::Failed) } => {
            Finding::fail(
                format!("{hop}, the next hop, does not answer on {} for its MAC address", link.name),
                "",
            )
        }
        Way::Through { link, .. } if !link.has_carrier => {
            next_hop::up(Finding::fail(format!("{} is down or has no link", link.name), ""), &link)
        }
        Way::Through { link, .. } => dropped_at(host, &link)?,
        Way::Local => {
            let finding = Finding::fail("a packet filter drops it on its way out", "");
            firewall::let_through(finding, Chain::Output, sensor.port(), sensor.is_ipv6())
        }
        Way::None => Finding::fail("there is no route any more", ""),
    })
}

/// The sensor's sockets on this host, and what UDP counts.
struct Arrival {
    sockets: Vec<UdpSocket>,
    counters: UdpCounters,
}

impl Arrival {
    fn look(sensor: SocketAddr) -> Result<Self> {
        Ok(Self {
            sockets: sockets::at_port(sensor.port(), Some(sensor.ip()))?,
            counters: UdpCounters::read()?,
        })
    }

    fn sum(&self, number: impl Fn(&UdpSocket) -> u64) -> u64 {
        self.sockets.iter().map(number).sum()
    }
}

/// Follows a datagram to the sensor's socket, as far as counts tell: others may come at the same time.
fn arrive(trail: &Trail, sensor: SocketAddr, before: &Arrival) -> Result<Finding> {
    let mut trail = trail.clone();
    let station = "in the sensor's socket";
    let deadline = Instant::now() + ARRIVE_TIME;
    loop {
        let now = Arrival::look(sensor)?;
        let Some(socket) = now.sockets.first() else {
            let sink = format!("mirror-agent sink --listen {sensor}");
            let reason =
                Finding::fail(format!("nobody listens at port {}", sensor.port()), "").mend(sink, "");
            return Ok(trail.stopped_by(station, reason));
        };
        if now.sum(|socket| socket.drops) > before.sum(|socket| socket.drops) {
            let stopped = socket.holders.iter().find(|holder| holder.is_stopped);
            let reason =
                Finding::fail(format!("the queue of {} is full: see sensor-queue", socket.holder()), "");
            return Ok(trail.stopped_by(
                station,
                match stopped {
                    Some(holder) => reason
                        .mend(format!("kill -CONT {}", holder.pid), format!("kill -STOP {}", holder.pid)),
                    None => reason,
                },
            ));
        }
        let has_more_waiting = now.sum(|socket| socket.waiting) > before.sum(|socket| socket.waiting);
        if has_more_waiting || now.counters.received() > before.counters.received() || socket.inode == 0 {
            trail.pass(format!("arrived at {}", socket.holder()));
            return Ok(trail.arrived());
        }
        if Instant::now() >= deadline {
            let nobody = now.counters.get(Kind::NoPorts) > before.counters.get(Kind::NoPorts);
            let reason = Finding::fail(
                if nobody {
                    "the socket is bound to another address"
                } else {
                    "a packet filter drops it on its way in"
                },
                "",
            );
            return Ok(trail.stopped_by(
                station,
                firewall::let_through(reason, Chain::Input, sensor.port(), sensor.is_ipv6()),
            ));
        }
        thread::sleep(PERIOD);
    }
}

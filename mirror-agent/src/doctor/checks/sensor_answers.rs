//! Whether a sensor, or the network in front of it, refuses what is sent to it.

use std::{io, net::SocketAddr, thread, time::Duration};

use anyhow::Result;
use mirror_common::{record::RecordHeader, udp};
use rtnetlink::packet_route::neighbour::NeighbourState;

use crate::{
    doctor::{
        answer::{self, Refusal},
        check::Check,
        finding::Finding,
        firewall::{self, Chain},
        host::{Destination, Host},
        next_hop,
        next_hop::Way,
        probe::{frame::ProbeFrame, rig},
        sockets,
    },
    encap::tunnel::Encap,
    source::Frame,
};

/// See the module.
pub const CHECK: Check = Check {
    id: "sensor-answers",
    title: "whether a sensor can be sent to: name, route, neighbour, and nobody refuses (ICMP unreachable)",
    look,
    counters: None,
};

/// How long to wait for an answer: there and back through a data centre, with time to spare.
const ANSWER_TIME: Duration = Duration::from_millis(300);

/// How long a neighbour may take to answer, before it is not there: the kernel asks once a second.
const NEIGHBOUR_TIME: Duration = Duration::from_millis(1500);

const NO_WAY: &str = "nothing of what is mirrored leaves this host: the agent counts it as send_failed";

const REFUSED: &str = "what is mirrored reaches that host and is thrown away there, each datagram with an answer that adds to \
                       the traffic; with several sensors this one's connections go to the others";

fn look(host: &Host) -> Result<Vec<Finding>> {
    let mut all = Vec::new();
    for destination in &host.destinations {
        all.push(tell(host, destination)?.about(&destination.text));
    }
    Ok(all)
}

fn tell(host: &Host, destination: &Destination) -> Result<Finding> {
    let sensor = match &destination.address {
        Ok(sensor) => *sensor,
        Err(error) => {
            let name = destination.text.rsplit_once(':').map_or(&*destination.text, |(name, _)| name);
            let found =
                format!("{name} does not resolve: {error}; ADDRESS in the command is for you to fill in");
            let why = "the agent does not start with a sensor that has no address";
            return Ok(Finding::fail(found, why).mend(
                format!("echo ADDRESS {name} >> /etc/hosts"),
                format!("sed -i '/ {name}$/d' /etc/hosts"),
            ));
        }
    };
    let through = match next_hop::find(host, sensor.ip())? {
        Way::None => return next_hop::explain_none(host, sensor.ip(), NO_WAY),
        Way::Through { link, .. } if !link.has_carrier => {
            let found = format!(
                "what is sent to {sensor} leaves through {}, which is down or has no link",
                link.name
            );
            return Ok(next_hop::up(Finding::fail(found, NO_WAY), &link));
        }
        Way::Through { link, hop, .. } => Some((link, hop)),
        Way::Local => None,
    };
    match answer::ask(sensor, &payload(host, sensor), ANSWER_TIME) {
        Err(error) => return Ok(explain_failure(sensor, &error)),
        Ok(Some(refusal)) => return explain_refusal(host, sensor, refusal),
        Ok(None) => {}
    }
    let Some((link, hop)) = through else {
        return Ok(Finding::ok(format!("{sensor} is this host, and nobody refuses what is sent to it")));
    };
    if link.is_ethernet && !is_there(host, sensor)? {
        let found =
            format!("{hop}, the next hop to {sensor}, does not answer on {} for its MAC address", link.name);
        let why = "datagrams wait for it and are thrown away: nothing of what is mirrored leaves this host";
        let family = if hop.is_ipv6() { "-6 " } else { "" };
        // Whoever is not there cannot be brought back from here; a wrong entry can.
        return Ok(
            Finding::fail(found, why).mend(format!("ip {family}neigh flush to {hop} dev {}", link.name), "")
        );
    }
    Ok(Finding::ok(format!("what is sent to {sensor} leaves through {}, and nobody refuses it", link.name)))
}

/// A tunnel header, and a probe frame.
fn payload(host: &Host, sensor: SocketAddr) -> Vec<u8> {
    let frame = ProbeFrame::outgoing([0; 6]);
    let header = RecordHeader { original_len: frame.bytes().len() as u32, ..RecordHeader::default() };
    let headers = rig::wrapping(host).to(sensor.port()).headers(&Frame::whole(&header, frame.bytes()));
    [&headers[udp::HEADER_LEN..], frame.bytes()].concat()
}

/// Whether the next hop has answered, or need not.
fn is_there(host: &Host, sensor: SocketAddr) -> Result<bool> {
    const PERIOD: Duration = Duration::from_millis(100);
    for _ in 0..NEIGHBOUR_TIME.as_millis() / PERIOD.as_millis() {
        match next_hop::find(host, sensor.ip())? {
            Way::Through { neighbour: Some(NeighbourState::Incomplete), .. } => thread::sleep(PERIOD),
            Way::Through { neighbour: Some(NeighbourState::Failed), .. } => return Ok(false),
            _ => return Ok(true),
        }
    }
    Ok(false)
}

/// This host does not send it.
pub fn explain_failure(sensor: SocketAddr, error: &io::Error) -> Finding {
    let found = format!("this host does not send to {sensor}: {error}");
    match error.raw_os_error() {
        // What a packet filter drops on its way out (`nf_hook_slow` in net/netfilter/core.c).
        Some(libc::EPERM) => {
            let finding = Finding::fail(format!("{found}: a packet filter drops it"), NO_WAY);
            firewall::let_through(finding, Chain::Output, sensor.port(), sensor.is_ipv6())
        }
        Some(libc::ENOBUFS) => Finding::fail(
            format!("{found}: the outgoing interface's queue or a program on its egress hook drops it"),
            NO_WAY,
        ),
        _ => Finding::fail(found, NO_WAY),
    }
}

fn explain_refusal(host: &Host, sensor: SocketAddr, refusal: Refusal) -> Result<Finding> {
    let Refusal { errno, from, icmp } = refusal;
    let error = io::Error::from_raw_os_error(errno);
    let (Some(from), Some((kind, code))) = (from, icmp) else {
        return Ok(explain_failure(sensor, &error));
    };
    let said = format!(
        "{from} answers with ICMP{} type {kind} code {code} ({error})",
        if from.is_ipv6() { "v6" } else { "" }
    );
    let is_local = matches!(next_hop::find(host, sensor.ip())?, Way::Local);
    if errno == libc::ECONNREFUSED {
        let has_listener = is_local && !sockets::at_port(sensor.port(), Some(sensor.ip()))?.is_empty();
        if has_listener {
            let found = format!(
                "{said}, although somebody listens at port {}: a packet filter rejects it",
                sensor.port()
            );
            let finding = Finding::fail(found, REFUSED);
            return Ok(firewall::let_through(finding, Chain::Input, sensor.port(), sensor.is_ipv6()));
        }
        let place = if is_local { "here" } else { "there: run the command on that host" };
        let found = format!("{said}: nobody listens at port {} {place}", sensor.port());
        let encap = if host.encap == Encap::Vxlan { "" } else { " --encap geneve" };
        let any = if sensor.is_ipv6() { "[::]" } else { "0.0.0.0" };
        // Without a sensor, a sink answers for the port.
        let sink = format!("mirror-agent sink --listen {any}:{}{encap}", sensor.port());
        return Ok(Finding::fail(found, REFUSED).mend(sink, ""));
    }
    let is_filter = matches!((from.is_ipv6(), kind, code), (false, 3, 9 | 10 | 13) | (true, 1, 1 | 5 | 6));
    let found = if is_filter { format!("{said}: a packet filter there rejects it") } else { said };
    let finding = Finding::fail(found, REFUSED);
    if is_filter && is_local {
        return Ok(firewall::let_through(finding, Chain::Input, sensor.port(), sensor.is_ipv6()));
    }
    Ok(finding)
}

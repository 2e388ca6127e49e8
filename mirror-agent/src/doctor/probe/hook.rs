//! Through the real hooks of an interface: into a ring, or in redirect mode to the sensors.

use std::{
    io, thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use futures_util::TryStreamExt as _;
use mirror_common::record::Direction;
use rtnetlink::packet_route::link::LinkAttribute;

use super::{
    delivery,
    frame::ProbeFrame,
    inject,
    rig::{Caught, Rig},
    trail::Trail,
    watch::Watch,
};
use crate::{
    doctor::{finding::Finding, host::Host, next_hop, others},
    links::Link,
    redirect::Redirect,
};

/// How long a frame may take to a ring: most often it is there when the system call is over, or when a softirq has run.
const TIME: Duration = Duration::from_millis(300);

/// Between two looks.
const PERIOD: Duration = Duration::from_millis(1);

/// As in reports.
pub const fn way_of(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    }
}

/// A frame for an interface.
///
/// # Errors
///
/// What netlink says.
pub fn frame(host: &Host, link: &Link, direction: Direction) -> Result<ProbeFrame> {
    let asked = host.netlink().link().get().match_index(link.ifindex).execute();
    let messages: Vec<_> = host
        .wait(asked.try_collect())
        .with_context(|| format!("cannot ask for the address of {}", link.name))?;
    let address =
        messages.iter().flat_map(|message| &message.attributes).find_map(|attribute| match attribute {
            LinkAttribute::Address(address) => <[u8; 6]>::try_from(address.as_slice()).ok(),
            _ => None,
        });
    let mac = address.unwrap_or_default();
    Ok(match direction {
        Direction::Egress => ProbeFrame::outgoing(mac),
        Direction::Ingress => ProbeFrame::incoming(mac),
    })
}

/// Puts the frame on the interface. Returns the finding where that does not work: the first station.
///
/// # Errors
///
/// No right to.
pub fn put(
    trail: &mut Trail,
    link: &Link,
    direction: Direction,
    frame: &ProbeFrame,
) -> Result<Option<Finding>> {
    let (done, result) = match direction {
        Direction::Egress => ("sent", inject::send(link.ifindex, frame)),
        Direction::Ingress => ("received", inject::receive(link.ifindex, frame)),
    };
    match result {
        Ok(()) => trail.pass(done),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENETDOWN | libc::ENXIO) => return Ok(Some(is_down(trail, done, link))),
            Some(libc::ENOBUFS) if !link.has_carrier => return Ok(Some(is_down(trail, done, link))),
            // Behind the hook somebody drops it: what becomes of the frame itself is no matter of the mirror's.
            Some(libc::ENOBUFS) => trail.pass(format!("{done} (and dropped behind the hook)")),
            Some(libc::EPERM | libc::EACCES) => {
                return Err(error).context("no right to put a frame on an interface");
            }
            _ => return Ok(Some(trail.stopped(done, &describe(&error)))),
        },
    }
    Ok(None)
}

fn is_down(trail: &Trail, done: &str, link: &Link) -> Finding {
    trail.stopped_by(done, next_hop::up(Finding::fail(format!("{} is down", link.name), ""), link))
}

fn describe(error: &io::Error) -> String {
    error.to_string()
}

/// Follows a frame through a hook into the ring.
///
/// # Errors
///
/// It cannot be followed.
pub fn into_ring(
    host: &Host,
    rig: &mut Rig,
    link: &Link,
    direction: Direction,
) -> Result<(Finding, Option<(ProbeFrame, Caught)>)> {
    let mut trail = Trail::new(format!("{} {}, ring", link.name, way_of(direction)));
    let frame = frame(host, link, direction)?;
    let before = rig.counters(&link.name, direction)?;
    if let Some(finding) = put(&mut trail, link, direction, &frame)? {
        return Ok((finding, None));
    }
    let deadline = Instant::now() + TIME;
    loop {
        if let Some(caught) = rig.catch(&frame) {
            trail.pass("seen by the hook");
            trail.pass("passed a filter");
            trail.pass("came out of the ring");
            return Ok((trail.arrived(), Some((frame, caught))));
        }
        if Instant::now() >= deadline {
            break;
        }
        thread::sleep(PERIOD);
    }
    let counted = rig.counters(&link.name, direction)?.minus(before);
    let finding = if counted.seen == 0 {
        unseen(host, &trail, link, direction)?
    } else if counted.ring_full > 0 {
        trail.stopped("in the ring", "the ring has no room (ring_full)")
    } else if counted.copy_failed > 0 {
        trail.stopped("in the ring", "the kernel could not read the frame (copy_failed)")
    } else if counted.own > 0 {
        trail.stopped("in the ring", "the hook takes it for a datagram of an agent's (own)")
    } else {
        // Frames of the host's were seen, this one was not.
        unseen(host, &trail, link, direction)?
    };
    Ok((finding, None))
}

/// The hook did not see it: somebody is in front.
fn unseen(host: &Host, trail: &Trail, link: &Link, direction: Direction) -> Result<Finding> {
    let in_front = others::in_front(host, link, direction)?;
    let reason = match (&in_front[..], direction) {
        ([], Direction::Ingress) => "an XDP program on the interface, or a full backlog, has it".to_owned(),
        ([], Direction::Egress) => "a netfilter egress hook has it, perhaps".to_owned(),
        (all, _) => format!("in front of it there is {}", others::list(all)),
    };
    Ok(trail.stopped("seen by the hook", &reason))
}

/// Follows a frame through a hook of redirect mode to all sensors, of which there are `sensors`.
///
/// # Errors
///
/// It cannot be followed.
pub fn redirected(
    host: &Host,
    rig: &Rig,
    redirect: &Redirect,
    sensors: usize,
    link: &Link,
    direction: Direction,
) -> Result<Finding> {
    let mut trail = Trail::new(format!("{} {}, redirect", link.name, way_of(direction)));
    let frame = frame(host, link, direction)?;
    let watch = Watch::open(frame.tail()).context("cannot watch where a probe goes")?;
    let (before, errors_before) = (rig.counters(&link.name, direction)?, redirect.errors()?);
    if let Some(finding) = put(&mut trail, link, direction, &frame)? {
        return Ok(finding);
    }
    let left = delivery::wait_for_datagrams(&watch, sensors, TIME)?;
    let counted = rig.counters(&link.name, direction)?.minus(before);
    if counted.seen == 0 {
        return unseen(host, &trail, link, direction);
    }
    trail.pass("seen by the hook");
    if counted.too_big > 0 {
        return Ok(trail.stopped("cloned to the outgoing interface", "it is too long for the path (too_big)"));
    }
    if counted.send_failed > 0 || left.is_empty() {
        let was = |errno| errors_before.iter().find(|(old, _)| *old == errno).map_or(0, |(_, count)| *count);
        let errors: Vec<_> =
            redirect.errors()?.into_iter().filter(|(errno, count)| *count > was(*errno)).collect();
        let station = "sent by the outgoing interface";
        let Some((errno, _)) = errors.first() else {
            return Ok(trail.stopped(station, "nobody says why"));
        };
        let said = io::Error::from_raw_os_error(*errno);
        let reason = match *errno {
            libc::ENOBUFS => match outgoing(host) {
                Some(outgoing) => delivery::dropped_at(host, &outgoing)?,
                None => Finding::fail(said.to_string(), ""),
            },
            libc::ENETUNREACH => Finding::fail("there is no way to a sensor: see sensor-answers", ""),
            libc::EHOSTUNREACH => Finding::fail(
                "the kernel's stack did not send it: no neighbour, or a packet filter (see sensor-answers)",
                "",
            ),
            _ => Finding::fail(said.to_string(), ""),
        };
        return Ok(trail.stopped_by(station, reason));
    }
    trail.pass("cloned and encapsulated in the kernel");
    let names: Vec<_> = left.iter().map(|seen| delivery::name(host, seen.ifindex)).collect();
    trail.pass(format!("left through {}", names.join(", ")));
    Ok(trail.arrived())
}

fn outgoing(host: &Host) -> Option<Link> {
    host.addresses().find_map(|sensor| match next_hop::find(host, sensor.ip()) {
        Ok(next_hop::Way::Through { link, .. }) => Some(link),
        _ => None,
    })
}

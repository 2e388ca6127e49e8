//! A frame through the real hooks, and how far it gets.

use anyhow::{Context as _, Result};
use mirror_common::{
    pool::{BUCKETS, DESTINATIONS_MAX, Table},
    record::Direction,
};

use crate::{
    cli::{Hook, Mode},
    doctor::{
        capability,
        check::Check,
        finding::Finding,
        host::Host,
        next_hop::{self, Way},
        probe::{delivery, frame::ProbeFrame, hook, rig, rig::Rig, running},
    },
    links::Link,
    redirect::Redirect,
};

/// See the module.
pub const CHECK: Check = Check {
    id: "probe",
    title: "a frame that is followed through the real hooks to the sensor",
    look,
    counters: None,
};

/// Interfaces that are probed; attaching to each takes some ten milliseconds.
const IFACES_MAX: usize = 4;

fn look(host: &Host) -> Result<Vec<Finding>> {
    let needed = [
        (capability::NET_ADMIN, "CAP_NET_ADMIN"),
        (capability::NET_RAW, "CAP_NET_RAW"),
        (capability::BPF, "CAP_BPF"),
        (capability::PERFMON, "CAP_PERFMON"),
    ];
    let missing: Vec<_> =
        needed.iter().filter(|(number, _)| !host.may(*number)).map(|(_, name)| *name).collect();
    if !missing.is_empty() {
        let found = format!("no frame was sent: this process lacks {}", missing.join(", "));
        return Ok(vec![Finding::note(found, "run doctor as root to see where traffic stops")]);
    }
    let mut all = Vec::new();
    if host.hook == Hook::Xdp {
        let found = "frames were sent through the TC hooks: a driver runs the XDP hook by itself";
        all.push(Finding::note(found, "only what the network sends meets the XDP hook"));
    }
    let usable: Vec<&Link> = host.mirrored.iter().filter(|link| link.is_ethernet).take(IFACES_MAX).collect();
    let (mut free, mut caught) = (Vec::new(), None);
    for link in usable {
        match rig::owner(link) {
            None => free.push(link),
            Some(None) => {
                let found = "an agent in another container mirrors it: no frame was sent through it";
                all.push(Finding::note(found, "run doctor in that container").about(&link.name));
            }
            Some(Some(pid)) => {
                for direction in Direction::ALL {
                    all.push(running::follow(host, link, pid.unsigned_abs(), direction)?);
                }
            }
        }
    }
    let sensors: Vec<_> = host.addresses().take(DESTINATIONS_MAX).collect();
    let mut own_paths = None;
    if !free.is_empty() {
        let mut rig = Rig::load(host, false)?;
        for link in &free {
            caught = with(host, &mut rig, link, &mut all)?.or(caught);
        }
        host.wait(rig.detach_all());
        own_paths = Some(rig.own_paths.clone());
    }
    let (frame, caught) = caught.unwrap_or_else(|| {
        let frame = ProbeFrame::outgoing([0; 6]);
        let made = delivery::made(&frame);
        (frame, made)
    });
    let mut any_left = false;
    for sensor in &sensors {
        let delivery = delivery::deliver(host, *sensor, &frame, &caught, own_paths.as_ref())?;
        any_left |= delivery.has_left;
        all.push(delivery.finding);
    }
    if free.is_empty() || sensors.is_empty() {
        return Ok(all);
    }
    if any_left {
        all.extend(redirected(host, &free, sensors.len())?);
    } else {
        // It would wait for its own datagrams to leave, for seconds, and for nothing else.
        let found = "redirect mode was not tried, since nothing leaves for a sensor";
        all.push(Finding::note(found, "it takes the same way").about("redirect"));
    }
    Ok(all)
}

/// Both ways through an interface into the ring.
fn with(
    host: &Host,
    rig: &mut Rig,
    link: &Link,
    all: &mut Vec<Finding>,
) -> Result<Option<(ProbeFrame, rig::Caught)>> {
    host.wait(rig.attach(link))?;
    let mut caught = None;
    let result = Direction::ALL.into_iter().try_for_each(|direction| {
        let (finding, found) = hook::into_ring(host, rig, link, direction)?;
        all.push(finding);
        caught = found.or(caught.take());
        Ok(())
    });
    host.wait(rig.detach(link));
    result.map(|()| caught)
}

fn refused(host: &Host, why: &str) -> Finding {
    let found = format!("redirect mode cannot be used: {why}");
    let finding = if host.mode == Mode::Redirect {
        Finding::fail(found, "the agent does not start in that mode: use --mode ring")
    } else {
        Finding::note(found, "ring mode does not need that")
    };
    finding.about("redirect")
}

/// Both ways through interfaces and to the sensors, within the kernel.
fn redirected(host: &Host, links: &[&Link], sensors: usize) -> Result<Vec<Finding>> {
    for sensor in host.addresses() {
        if matches!(next_hop::find(host, sensor.ip())?, Way::Local) {
            return Ok(vec![refused(host, &format!("{sensor} is this host"))]);
        }
    }
    let mut rig = Rig::load(host, true)?;
    let (maps, order) = rig.redirect.take().context("no maps of redirect mode")?;
    let own_paths = rig.own_paths.clone();
    let started = host.wait(Redirect::start(order, maps, own_paths, rig.hooks().ebpf(), host.links()));
    let mut redirect = match started {
        Ok(redirect) => redirect,
        Err(error) => {
            return Ok(vec![refused(host, &format!("{error:#}"))]);
        }
    };
    let mut all = Vec::new();
    // Each gets every frame.
    let table = Box::new(Table { members: u64::MAX >> (DESTINATIONS_MAX - sensors), buckets: [0; BUCKETS] });
    let mut each = || -> Result<()> {
        redirect.share_out(&table)?;
        for link in links {
            // No frames of redirect mode on a device that brings them back.
            if link.is_loopback {
                continue;
            }
            host.wait(rig.attach(link))?;
            let result: Result<()> = Direction::ALL.into_iter().try_for_each(|direction| {
                all.push(hook::redirected(host, &rig, &redirect, sensors, link, direction)?);
                Ok(())
            });
            host.wait(rig.detach(link));
            result?;
        }
        Ok(())
    };
    let result = each();
    host.wait(async {
        rig.detach_all().await;
        redirect.stop(host.links()).await;
    });
    result.map(|()| all)
}

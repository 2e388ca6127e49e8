//! The sensor's socket, where it is on this host: whether its queue is full, and who reads it.

use std::{net::SocketAddr, thread, time::Duration};

use anyhow::Result;

use crate::{
    doctor::{
        buffers::{self, Side},
        check::{Check, Counter},
        finding::Finding,
        host::Host,
        processes::Process,
        sockets::{self, UdpSocket},
    },
    links::route::{self, Route},
};

/// See the module.
pub const CHECK: Check = Check {
    id: "sensor-queue",
    title: "the receive queue at the sensor's port, and who reads it, where that is on this host",
    look,
    counters: Some(counters),
};

/// Between the two looks that tell a queue that is full from one that is being read.
const APART: Duration = Duration::from_millis(200);

/// A buffer that a burst of a hundred datagrams fills.
const SMALL: u64 = 1 << 20;

const FULL: &str = "what arrives while the queue is full is thrown away by this host: mirrored frames are missing at the \
                    sensor, and the agent counts them as sent";

fn look(host: &Host) -> Result<Vec<Finding>> {
    let mut all = Vec::new();
    let local = local(host);
    let before: Vec<_> = local.iter().map(at).collect::<Result<_>>()?;
    if before.iter().any(|sockets| !sockets.is_empty()) {
        thread::sleep(APART);
    }
    for (address, before) in local.iter().zip(before) {
        for socket in at(address)? {
            let old = before.iter().find(|old| (old.inode, old.local) == (socket.inode, socket.local));
            let lost = socket.drops - old.map_or(socket.drops, |old| old.drops.min(socket.drops));
            all.push(tell(&socket, lost).about(address.to_string()));
            let proxies = socket.holders.iter().filter(|holder| holder.is_userland_proxy());
            all.extend(proxies.map(|proxy| tell_proxy(proxy, host).about(address.to_string())));
        }
    }
    Ok(all)
}

/// The sensors that are on this host.
fn local(host: &Host) -> Vec<SocketAddr> {
    let is_local = |address: &SocketAddr| {
        host.wait(route::find(host.netlink(), address.ip())).is_ok_and(|route| route == Route::Local)
    };
    host.addresses().filter(is_local).collect()
}

fn at(address: &SocketAddr) -> Result<Vec<UdpSocket>> {
    sockets::at_port(address.port(), Some(address.ip()))
}

/// `lost` is what was lost between the two looks.
fn tell(socket: &UdpSocket, lost: u64) -> Finding {
    let UdpSocket { waiting, buffer, drops, .. } = socket;
    let state = format!(
        "{} of its buffer's {} are taken, {drops} datagrams were lost",
        bytes(*waiting),
        bytes(*buffer)
    );
    let whose = format!("the socket of {}", socket.holder());
    if let Some(stopped) = socket.holders.iter().find(|holder| holder.is_stopped) {
        let found = format!("{whose} is not read, since the process is stopped: {state}");
        let pid = stopped.pid;
        return Finding::fail(found, FULL).mend(format!("kill -CONT {pid}"), format!("kill -STOP {pid}"));
    }
    if lost > 0 || socket.is_full() {
        let grows = if lost > 0 { "is overrun now" } else { "is full" };
        return reopen(Finding::fail(format!("{whose} {grows}: {state}"), FULL), socket);
    }
    if *drops > 0 {
        let found = format!("{whose} has lost datagrams, none now: {state}");
        return reopen(Finding::warn(found, FULL), socket);
    }
    if (1..SMALL).contains(buffer) {
        let why = "a burst that comes faster than it is read fills it within milliseconds, and the rest is lost here";
        return reopen(Finding::warn(format!("{whose} has a small buffer: {state}"), why), socket);
    }
    Finding::ok(format!("{whose}: {state}"))
}

/// Adds what gives the socket a larger buffer: the limits, and a new start, since a socket keeps what it has.
fn reopen(finding: Finding, socket: &UdpSocket) -> Finding {
    let is_sink = |holder: &&Process| holder.name == "mirror-agent";
    if let Some(sink) = socket.holders.iter().find(is_sink) {
        // It takes what it asks for, whatever the limits are.
        let again = format!("mirror-agent sink --listen {} --rcvbuf 256MiB", socket.local);
        return finding.mend(format!("kill {}", sink.pid), "").mend(again, "");
    }
    let finding = buffers::raise(finding, Side::Receive);
    let unit = socket.holders.iter().find_map(Process::unit);
    match unit {
        Some(unit) => finding.mend(format!("systemctl restart {unit}"), ""),
        None => finding,
    }
}

/// A proxy in front of the sensor.
fn tell_proxy(proxy: &Process, host: &Host) -> Finding {
    let found =
        format!("{proxy}, a userland proxy, has the port, and passes each datagram on to a container");
    let why = "it copies every datagram once more, in one thread, and sends it from a port of its own: it is the first to \
               be too slow, loses without a count, and a sensor that spreads load by the outer source port gets all from \
               one; send past it, or run the sensor on the host's network (docker run --network host), or switch it off \
               (\"userland-proxy\": false in /etc/docker/daemon.json)";
    let finding = Finding::warn(found, why);
    let (Some(ip), Some(port)) = (proxy.argument("-container-ip"), proxy.argument("-container-port")) else {
        return finding;
    };
    let container = ip.parse().ok().zip(port.parse().ok()).map(|(ip, port)| SocketAddr::new(ip, port));
    let Some(container) = container else { return finding };
    let ifaces: Vec<_> = host.mirrored.iter().map(|link| format!("--iface {}", link.name)).collect();
    finding.mend(format!("mirror-agent {} --dest {container}", ifaces.join(" ")), "")
}

fn bytes(number: u64) -> String {
    if number < 10 << 10 { format!("{number} bytes") } else { format!("{} KiB", number >> 10) }
}

fn counters(host: &Host) -> Result<Vec<Counter>> {
    let mut all = Vec::new();
    for address in local(host) {
        for socket in at(&address)? {
            let name = format!("drops at {} of {}", socket.local, socket.holder());
            all.push(Counter { name, value: socket.drops, why: FULL });
        }
    }
    Ok(all)
}

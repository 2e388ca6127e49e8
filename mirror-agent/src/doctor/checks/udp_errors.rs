//! UDP datagrams that this host lost, and whether it goes on.

use std::{thread, time::Duration};

use anyhow::Result;

use crate::doctor::{
    buffers::{self, Side},
    check::{Check, Counter},
    finding::Finding,
    host::Host,
    sockets::{self, UdpSocket},
    sysctl,
    udp_counters::{Kind, UdpCounters},
};

/// See the module.
pub const CHECK: Check = Check {
    id: "udp-errors",
    title: "UDP datagrams that this host lost (RcvbufErrors, SndbufErrors, MemErrors, InErrors)",
    look,
    counters: Some(counters),
};

/// Between the two looks that tell what grows from what is long past.
const APART: Duration = Duration::from_millis(200);

fn look(_: &Host) -> Result<Vec<Finding>> {
    let (before, sockets_before) = (UdpCounters::read()?, sockets::with_drops().unwrap_or_default());
    thread::sleep(APART);
    let (now, sockets_now) = (UdpCounters::read()?, sockets::with_drops().unwrap_or_default());
    let mut all = Vec::new();
    // The others are told one by one: what is left has no name of its own.
    let has_others = |counters: &UdpCounters| {
        [Kind::Rcvbuf, Kind::Mem, Kind::Csum].map(|kind| counters.get(kind)).iter().sum::<u64>()
    };
    for kind in Kind::LOSSES {
        let count = |counters: &UdpCounters| match kind {
            Kind::In => counters.get(kind).saturating_sub(has_others(counters)),
            kind => counters.get(kind),
        };
        let (total, growth) = (count(&now), count(&now).saturating_sub(count(&before)));
        if total == 0 {
            continue;
        }
        let losers = if kind == Kind::Rcvbuf { grown(&sockets_before, &sockets_now) } else { Vec::new() };
        all.push(tell(kind, total, growth, &losers));
    }
    if all.is_empty() {
        all.push(Finding::ok("no UDP datagram was lost by this host"));
    }
    Ok(all)
}

/// The sockets that lost something meanwhile.
fn grown<'a>(before: &[UdpSocket], now: &'a [UdpSocket]) -> Vec<&'a UdpSocket> {
    let was = |socket: &UdpSocket| {
        let same = before.iter().find(|old| (old.inode, old.local) == (socket.inode, socket.local));
        same.map_or(0, |old| old.drops)
    };
    now.iter().filter(|socket| socket.drops > was(socket)).collect()
}

fn tell(kind: Kind, total: u64, growth: u64, losers: &[&UdpSocket]) -> Finding {
    let name = kind.name();
    if growth == 0 {
        let found = format!("{total} {name} since this host's start, none now");
        return Finding::note(found, why(kind)).about(name);
    }
    let rate = growth as f64 / APART.as_secs_f64();
    let mut found = format!("{name} grows by {rate:.0} a second, {total} so far");
    for socket in losers {
        found += &format!(", at {} of {}", socket.local, socket.holder());
    }
    let finding = Finding::warn(found, why(kind)).about(name);
    let stopped = losers.iter().flat_map(|socket| &socket.holders).filter(|holder| holder.is_stopped);
    let finding = stopped.fold(finding, |finding, holder| {
        finding.mend(format!("kill -CONT {}", holder.pid), format!("kill -STOP {}", holder.pid))
    });
    match kind {
        Kind::Rcvbuf | Kind::In => buffers::raise(finding, Side::Receive),
        Kind::Sndbuf => buffers::raise(finding, Side::Send),
        Kind::Mem => raise_udp_mem(finding),
        Kind::Csum | Kind::NoPorts => finding,
    }
}

/// Doubles what all UDP sockets together may have: pages, in three numbers of which the last one is the limit.
fn raise_udp_mem(finding: Finding) -> Finding {
    const KEY: &str = "net.ipv4.udp_mem";
    let Ok(before) = sysctl::read(KEY) else { return finding };
    let doubled: Vec<_> = before
        .split_whitespace()
        .filter_map(|pages| Some((pages.parse::<u64>().ok()? * 2).to_string()))
        .collect();
    let set = |value: &str| format!("sysctl -q -w {KEY}=\"{value}\"");
    finding.mend(set(&doubled.join(" ")), set(&before))
}

const fn why(kind: Kind) -> &'static str {
    match kind {
        Kind::Rcvbuf => {
            "a program on this host reads more slowly than datagrams come: where it is the sensor, mirrored frames are \
             lost here, and the agent counts them as sent; a sensor has its larger buffer once it is started again"
        }
        Kind::Sndbuf => {
            "what is sent finds no room in the interface's queue or the socket's buffer: mirrored frames are lost \
             before they leave this host"
        }
        Kind::Mem => {
            "all UDP sockets together have too much memory: what comes for a sensor on this host is lost"
        }
        Kind::Csum => {
            "datagrams arrive damaged: mirrored frames are lost on the way; look for a bad cable or card, or a device \
             that leaves checksums unfinished"
        }
        Kind::In | Kind::NoPorts => "datagrams for a program on this host, such as a sensor, are lost here",
    }
}

fn counters(_: &Host) -> Result<Vec<Counter>> {
    let now = UdpCounters::read()?;
    let mut all: Vec<Counter> = Kind::LOSSES
        .iter()
        .map(|kind| Counter { name: kind.name().into(), value: now.get(*kind), why: why(*kind) })
        .collect();
    for socket in sockets::with_drops().unwrap_or_default() {
        let name = format!("drops at {} of {}", socket.local, socket.holder());
        all.push(Counter { name, value: socket.drops, why: why(Kind::Rcvbuf) });
    }
    Ok(all)
}

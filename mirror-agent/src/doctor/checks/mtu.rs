//! Whether a full frame fits into one packet to the sensor, with what is put in front of it.

use std::net::SocketAddr;

use anyhow::Result;
use mirror_common::{ethernet, udp};

use crate::{
    cli::{Mode, Oversize},
    doctor::{
        check::Check,
        finding::{Finding, Status},
        host::Host,
        route::{SetRoute, Through, Way},
    },
    links::Link,
};

/// See the module.
pub const CHECK: Check = Check {
    id: "mtu",
    title: "whether a full frame fits into one packet to the sensor, with the headers in front of it",
    look,
    counters: None,
};

/// A VLAN tag, which the interface's MTU does not count.
const TAG_LEN: u32 = 4;

fn look(host: &Host) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for destination in &host.destinations {
        let text = &destination.text;
        let address = match &destination.address {
            Ok(address) => *address,
            Err(error) => {
                let found = format!("{text} cannot be resolved: {error}");
                findings.push(Finding::fail(found, "nothing can be sent there"));
                continue;
            }
        };
        let way = host.way(address.ip())?;
        let Some(path) = Path::new(host, address, &way) else {
            let found = format!("there is no route to {text}");
            let why = "nothing can be sent there";
            findings.push(Finding::fail(found, why).about(text));
            continue;
        };
        findings.extend(
            host.mirrored.iter().map(|link| path.judge(host, link).about(format!("{} to {text}", link.name))),
        );
    }
    Ok(findings)
}

/// The way to a sensor.
struct Path<'a> {
    /// The largest packet.
    mtu: u32,
    /// Bytes of a packet that are neither the frame nor its Ethernet header.
    headers: u32,
    is_ipv6: bool,
    by: &'a Link,
    /// Where the route makes it smaller than the interface.
    route: Option<&'a Way>,
}

impl<'a> Path<'a> {
    fn new(host: &'a Host, address: SocketAddr, way: &'a Way) -> Option<Self> {
        let by = match way.through {
            Through::Local => host.all.iter().find(|link| link.is_loopback)?,
            Through::Interface(ifindex) => host.link(ifindex)?,
            Through::None => return None,
        };
        let is_ipv6 = address.is_ipv6();
        let ip = if is_ipv6 { 40 } else { 20 };
        let headers = ip + udp::HEADER_LEN as u32 + host.encap.header_len() as u32;
        let mtu = way.mtu.map_or(by.mtu, |mtu| mtu.min(by.mtu));
        Some(Self { mtu, headers, is_ipv6, by, route: (mtu < by.mtu).then_some(way) })
    }

    fn judge(&self, host: &Host, link: &Link) -> Finding {
        let frame = link.mtu + ethernet::HEADER_LEN;
        let needed = frame + self.headers;
        let overhead = ethernet::HEADER_LEN + self.headers;
        let sum = format!(
            "{} + {overhead} bytes of encapsulation = {needed}, the path by {} takes {}",
            link.mtu, self.by.name, self.mtu
        );
        if needed + TAG_LEN <= self.mtu {
            return Finding::ok(sum);
        }
        let (found, is_tags) = match needed <= self.mtu {
            true => (format!("{sum}: only frames with a VLAN tag are too long"), true),
            false => (sum, false),
        };
        let (status, why) = self.consequence(host);
        let status = if is_tags { Status::Note } else { status };
        self.mend(Finding::new(status, found, why), needed + TAG_LEN)
    }

    /// What becomes of a full frame.
    fn consequence(&self, host: &Host) -> (Status, String) {
        let longest = self.mtu.saturating_sub(self.headers);
        match (host.oversize, host.mode) {
            (Oversize::Fragment, Mode::Redirect) if self.is_ipv6 => (
                Status::Fail,
                format!(
                    "redirect mode fragments nothing over IPv6: frames of more than {longest} bytes are left out, as too_big"
                ),
            ),
            (Oversize::Truncate, Mode::Redirect) if self.is_ipv6 => {
                (Status::Fail, "--oversize truncate is refused in redirect mode over IPv6".into())
            }
            (Oversize::Fragment, _) => (
                Status::Warn,
                format!(
                    "frames of more than {longest} bytes go in two IP fragments: twice the packets, a frame is lost with either of \
                     them, and some networks let no fragments pass"
                ),
            ),
            (Oversize::Truncate, _) => (
                Status::Warn,
                format!("the sensor gets {longest} bytes of longer frames (--oversize truncate)"),
            ),
            (Oversize::Drop, _) => (
                Status::Fail,
                format!("frames of more than {longest} bytes are left out, as too_big (--oversize drop)"),
            ),
        }
    }

    fn mend(&self, finding: Finding, wanted: u32) -> Finding {
        let mut finding = finding;
        let name = &self.by.name;
        if wanted > u32::from(u16::MAX) {
            // More than an IP packet can be.
            return finding;
        }
        if self.by.mtu < wanted {
            let set = |mtu| format!("ip link set dev {name} mtu {mtu}");
            finding = finding.mend(set(wanted), set(self.by.mtu));
        }
        match self.route.and_then(|way| way.route.as_ref()) {
            Some(route @ SetRoute { mtu: Some(set), .. }) if *set == self.mtu => {
                finding.mend(route.with_mtu(Some(wanted)), route.with_mtu(Some(*set)))
            }
            // By ICMP: what mends it is not on this host.
            _ if self.route.is_some() => {
                finding.found += ", as a router on the way told";
                finding
            }
            _ => finding,
        }
    }
}

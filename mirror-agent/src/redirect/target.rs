//! One sensor of redirect mode: how datagrams to it leave, found out again and again.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use mirror_common::redirect::{Template, TunnelKey};

use super::prober::Prober;
use crate::{
    encap::{outer::Outer, template},
    kernel::{own_paths::OwnPaths, redirect::RedirectMaps, segmenter::Segmenter},
    links::{
        Link, Links,
        route::{self, Route},
    },
    output::{sighting::Sighting, stack::Stack},
};

/// How often it is looked at how datagrams leave: routes and neighbours may have changed.
const PERIOD: Duration = Duration::from_secs(1);

/// The same where a probe was not seen to leave.
const UNSEEN_PERIOD: Duration = Duration::from_millis(100);

/// Where as many probes in a row were not seen, a neighbour is not there any more.
const UNSEEN_MAX: u32 = 10;

/// Looks in a row that find no way, before there is none: who replaces an address or a route removes it first.
const FAILED_MIN: u32 = 2;

/// The time between them.
const SOON: Duration = Duration::from_millis(20);

/// Hops unless a probe shows others (RFC 1700).
const HOPS: u8 = 64;

/// A sensor.
pub struct Target {
    /// Its number among all.
    number: u32,
    pub sensor: SocketAddr,
    pub raw: Stack,
    pub prober: Prober,
    in_force: Template,
    unseen: u32,
    /// Looks in a row that found no way.
    failed: u32,
    /// When it is to be looked again.
    pub due: Instant,
    /// What the user was told last.
    told: String,
}

impl Target {
    pub fn new(number: u32, sensor: SocketAddr, raw: Stack, cookie: [u32; 2]) -> Self {
        Self {
            number,
            sensor,
            raw,
            prober: Prober::new(sensor, cookie),
            in_force: Template::NONE,
            unseen: 0,
            failed: 0,
            due: Instant::now(),
            told: String::new(),
        }
    }

    /// Goes on in the place of another address: frames go there until it is known how they get here.
    pub fn succeed(&mut self, before: &Self) {
        self.in_force = before.in_force;
    }

    /// Whether it is known how datagrams leave.
    pub fn is_known(&self) -> bool {
        self.in_force.is_known != 0
    }

    /// The interface that datagrams leave through, as the host's routes have it.
    pub async fn outgoing_link(&self, links: &Links) -> Result<Link> {
        let sensor = self.sensor;
        let ifindex = match route::find(&links.handle, sensor.ip()).await? {
            Route::Through(ifindex, _) => ifindex,
            Route::Local => {
                bail!("--mode redirect cannot send to {sensor}: it is this host: use --mode ring")
            }
            Route::None => bail!("cannot send to {sensor}: there is no route to it"),
        };
        let Some(link) = links.one(ifindex).await? else {
            bail!("cannot send to {sensor}: its interface is gone");
        };
        if !link.is_ethernet || link.is_loopback {
            bail!(
                "--mode redirect cannot send to {sensor}: datagrams leave through {}, which is no Ethernet device: \
                 use --mode ring",
                link.name
            );
        }
        Ok(link)
    }

    /// Sends the probe with this number and has frames leave like it. The encapsulating program is on `link`.
    pub async fn look(
        &mut self,
        probe: u32,
        link: &Link,
        maps: &mut RedirectMaps,
        segmenter: Option<&Segmenter>,
        own_paths: &OwnPaths,
    ) -> Result<()> {
        let packet_max = self.raw.path_mtu().context("the path has no MTU")?.min(link.mtu as usize);
        let base = self.template(link.ifindex, packet_max as u32, segmenter);
        self.due = Instant::now() + PERIOD;
        match self.prober.probe(probe, &mut self.raw, maps, link.ifindex).await? {
            Some(Sighting::Template(outer)) => {
                self.unseen = 0;
                own_paths.add(outer.source(), self.sensor)?;
                let (headers, sum) = template::halves_and_sum(&outer, self.raw.encapsulation_mut());
                self.put_in_force(maps, Template { is_known: 1, headers, sum, ..base })?;
                self.tell(link, &outer);
            }
            Some(Sighting::Refused(refusal)) => bail!(
                "--mode redirect cannot send to {}: datagrams leave through {}, {refusal}: use --mode ring",
                self.sensor,
                link.name
            ),
            Some(Sighting::Other) | None => {
                self.unseen += 1;
                // Each wait for a probe keeps other sensors waiting.
                self.due = Instant::now() + UNSEEN_PERIOD.max(PERIOD * u32::from(self.unseen > UNSEEN_MAX));
                let is_the_same = self.in_force.ifindex == link.ifindex;
                if !is_the_same || self.unseen >= UNSEEN_MAX {
                    self.put_in_force(maps, base)?;
                }
            }
        }
        self.failed = 0;
        Ok(())
    }

    /// A look found no way. Where it was not the first one, that is told, and frames are counted as failed.
    pub fn note_failure(
        &mut self,
        error: &anyhow::Error,
        maps: &mut RedirectMaps,
        segmenter: Option<&Segmenter>,
    ) {
        self.failed += 1;
        self.due = Instant::now() + if self.failed < FAILED_MIN { SOON } else { UNSEEN_PERIOD };
        if self.failed >= FAILED_MIN {
            let result = self.cut_off(maps, segmenter);
            let line = format!("{error:#}");
            if self.told != line {
                log::warn!("{line}");
                self.told = line;
            }
            if let Err(error) = result {
                log::debug!("{error:#}");
            }
        }
    }

    /// Frames are counted as failed from now on.
    pub fn cut_off(&mut self, maps: &mut RedirectMaps, segmenter: Option<&Segmenter>) -> Result<()> {
        let no_way = self.template(0, 0, segmenter);
        self.put_in_force(maps, no_way)
    }

    fn template(&self, ifindex: u32, packet_max: u32, segmenter: Option<&Segmenter>) -> Template {
        let remote = match self.sensor.ip() {
            IpAddr::V4(address) => [address.to_bits(), 0, 0, 0],
            IpAddr::V6(address) => {
                let bits = address.to_bits();
                [96, 64, 32, 0].map(|shift| ((bits >> shift) as u32).to_be())
            }
        };
        Template {
            ifindex,
            segmenter: segmenter.map_or(0, |segmenter| segmenter.ifindex),
            segmenter_port: segmenter.map_or(0, |segmenter| u32::from(segmenter.port)),
            packet_max,
            tunnel: TunnelKey {
                id: self.raw.encapsulation().vni(),
                remote,
                tos: 0,
                ttl: HOPS,
                ext: 0,
                label: 0,
            },
            port: self.sensor.port(),
            is_v6: u16::from(self.sensor.is_ipv6()),
            ..Template::NONE
        }
    }

    fn put_in_force(&mut self, maps: &mut RedirectMaps, template: Template) -> Result<()> {
        if template != self.in_force || self.is_in_doubt(maps)? {
            maps.follow(self.number, template)?;
            self.in_force = template;
        }
        Ok(())
    }

    /// Whether a hook has found out that the encapsulating program is not where it should be.
    pub fn is_in_doubt(&self, maps: &RedirectMaps) -> Result<bool> {
        Ok(maps.template(self.number)?.is_known != self.in_force.is_known)
    }

    fn tell(&mut self, link: &Link, outer: &Outer) {
        let mac = outer.destination_mac().map(|byte| format!("{byte:02x}")).join(":");
        let line = format!(
            "sending to {} from within the kernel, through {} from {} to {mac}",
            self.sensor,
            link.name,
            outer.source()
        );
        if self.told != line {
            log::info!("{line}");
            self.told = line;
        }
    }
}

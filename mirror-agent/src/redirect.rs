//! Redirect mode, as the control plane sees it: the kernel programs send by themselves, and are told how datagrams
//! leave this host, again each time that may have changed.

mod outgoing;
mod prober;
mod route;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf,
    programs::{SchedClassifier, TcAttachType, tc::SchedClassifierLink},
};
use mirror_common::redirect::{Template, TunnelKey};

use self::{outgoing::Outgoing, prober::Prober, route::Route};
use crate::{
    encap::{outer::Outer, template},
    kernel::{
        clsact,
        load::REDIRECT_PROGRAMS,
        own_paths::OwnPaths,
        redirect::RedirectMaps,
        segmenter::Segmenter,
        support::TcHook,
        tc_link::{self, Attachment},
    },
    links::{Link, Links},
    output::{raw_socket::RawSocket, sighting::Sighting},
};

/// How often it is looked at how datagrams leave: routes and neighbours may have changed.
const PERIOD: Duration = Duration::from_secs(1);

/// The same where a probe was not seen to leave.
const UNSEEN_PERIOD: Duration = Duration::from_millis(100);

/// How often it is looked whether a limited run is over.
const LIMIT_PERIOD: Duration = Duration::from_millis(20);

/// Where as many probes in a row were not seen, a neighbour is not there any more.
const UNSEEN_MAX: u32 = 10;

/// How long the start waits for a neighbour to answer: the kernel asks three times, a second apart.
const START_TIME: Duration = Duration::from_millis(3500);

/// Looks in a row that find no way, before there is none: who replaces an address or a route removes it first.
const FAILED_MIN: u32 = 2;

/// The time between them.
const SOON: Duration = Duration::from_millis(20);

/// The time between any two looks: where interfaces come and go by the hundred, netlink has news all the time.
const LOOK_PERIOD_MIN: Duration = Duration::from_millis(10);

/// Hops unless a probe shows others (RFC 1700).
const HOPS: u8 = 64;

/// What is to be done.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    /// Where to.
    pub sensor: SocketAddr,
    /// By which the programs know the probes.
    pub cookie: [u32; 2],
    /// How programs are attached.
    pub hook: TcHook,
    /// Frames after which to stop.
    pub limit: Option<u64>,
}

/// The sending half of the kernel programs.
pub struct Redirect {
    sensor: SocketAddr,
    /// Network identifier of what has none of its own.
    vni: u32,
    raw: RawSocket,
    prober: Prober,
    maps: RedirectMaps,
    own_paths: OwnPaths,
    hook: TcHook,
    segmenter: Option<Segmenter>,
    /// Its programs. They go with the device.
    segmenting: Vec<SchedClassifierLink>,
    /// Where datagrams leave, or have left in this run.
    outgoing: BTreeMap<u32, Outgoing>,
    in_force: Template,
    unseen: u32,
    /// Looks in a row that found no way.
    failed: u32,
    due: Instant,
    looked: Instant,
    is_limited: bool,
    /// What the user was told last.
    told: String,
}

impl Redirect {
    /// Makes the segmenter, and finds out how datagrams leave.
    ///
    /// # Errors
    ///
    /// There is no way to the sensor that redirect mode can take: names ring mode.
    pub async fn start(
        order: Order,
        raw: RawSocket,
        mut maps: RedirectMaps,
        own_paths: OwnPaths,
        ebpf: &mut Ebpf,
        links: &Links,
    ) -> Result<Self> {
        let Order { sensor, cookie, hook, limit } = order;
        if let Some(frames) = limit {
            maps.limit(frames)?;
        }
        let mut redirect = Self {
            sensor,
            vni: raw.encapsulation().vni(),
            raw,
            prober: Prober::new(sensor, cookie),
            maps,
            own_paths,
            hook,
            segmenter: None,
            segmenting: Vec::new(),
            outgoing: BTreeMap::new(),
            in_force: Template::NONE,
            unseen: 0,
            failed: 0,
            due: Instant::now(),
            looked: Instant::now(),
            is_limited: limit.is_some(),
            told: String::new(),
        };
        match redirect.prepare(ebpf, links).await {
            Ok(()) => Ok(redirect),
            Err(error) => {
                redirect.stop(links).await;
                Err(error)
            }
        }
    }

    async fn prepare(&mut self, ebpf: &mut Ebpf, links: &Links) -> Result<()> {
        // Before anything is made: it may be in vain.
        self.outgoing_link(links).await?;
        let segmenter = self.segmenter.insert(Segmenter::make(&links.handle).await?);
        for (program, side) in
            [(REDIRECT_PROGRAMS[1], TcAttachType::Egress), (REDIRECT_PROGRAMS[2], TcAttachType::Ingress)]
        {
            let program = find(ebpf, program)?;
            // A filter stays with the device as long as it is there, also where the agent was killed: nobody may put
            // frames into this host by it.
            let attach = |program: &mut SchedClassifier, hook| {
                tc_link::attach(program, &segmenter.name, side, hook, clsact::filter)
            };
            let Attachment { id, .. } =
                attach(program, TcHook::Clsact).or_else(|_| attach(program, self.hook))?;
            self.segmenting.push(program.take_link(id)?);
        }
        segmenter.start(&links.handle).await?;
        self.put_in_force(self.no_way())?;
        let deadline = Instant::now() + START_TIME;
        while self.in_force.is_known == 0 {
            self.look(ebpf, links).await?;
            if Instant::now() >= deadline {
                log::warn!("nobody answers for {} yet: it is sent to as soon as somebody does", self.sensor);
                break;
            }
        }
        Ok(())
    }

    /// When [`Self::follow`] is to be called.
    #[must_use]
    pub fn due(&self) -> Instant {
        if self.is_limited { self.due.min(Instant::now() + LIMIT_PERIOD) } else { self.due }
    }

    /// The same where there is other work that has to be done at once: a look takes some milliseconds.
    #[must_use]
    pub fn due_at_leisure(&self) -> Instant {
        self.due().max(self.looked + UNSEEN_PERIOD)
    }

    /// Something changed that may change how datagrams leave.
    pub fn hurry(&mut self) {
        self.due = self.due.min(self.looked + LOOK_PERIOD_MIN);
    }

    /// The same, where that can only be because of the interface with this number.
    pub fn hurry_for(&mut self, ifindex: u32) {
        if self.in_force.is_known == 0 || self.outgoing.contains_key(&ifindex) {
            self.hurry();
        }
    }

    /// The interface with this number is gone.
    pub fn forget(&mut self, ifindex: u32) {
        self.hurry_for(ifindex);
        self.outgoing.remove(&ifindex);
    }

    /// Looks again how datagrams leave. Where they cannot, that is told, and frames are counted as failed.
    pub async fn follow(&mut self, ebpf: &mut Ebpf, links: &Links) {
        if Instant::now() < self.due {
            return;
        }
        let Err(error) = self.look(ebpf, links).await else {
            self.failed = 0;
            return;
        };
        self.failed += 1;
        self.due = Instant::now() + if self.failed < FAILED_MIN { SOON } else { UNSEEN_PERIOD };
        if self.failed >= FAILED_MIN {
            let result = self.put_in_force(self.no_way());
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

    async fn look(&mut self, ebpf: &mut Ebpf, links: &Links) -> Result<()> {
        self.looked = Instant::now();
        self.maps.set_clock()?;
        let link = self.outgoing_link(links).await?;
        if self.is_in_doubt()? {
            self.outgoing.remove(&link.ifindex);
        }
        if !self.outgoing.contains_key(&link.ifindex) {
            let program = find(ebpf, REDIRECT_PROGRAMS[0])?;
            let outgoing = Outgoing::attach(program, &link, self.hook, links).await?;
            self.outgoing.insert(link.ifindex, outgoing);
        }
        let packet_max = self.raw.path_mtu().context("the path has no MTU")?.min(link.mtu as usize);
        let base = self.template(link.ifindex, packet_max as u32);
        self.due = Instant::now() + PERIOD;
        match self.prober.probe(&mut self.raw, &self.maps, link.ifindex).await? {
            Some(Sighting::Template(outer)) => {
                self.unseen = 0;
                self.own_paths.add(outer.source(), self.sensor)?;
                self.tell(&link, &outer);
                let (headers, sum) = template::halves_and_sum(&outer, self.raw.encapsulation_mut());
                self.put_in_force(Template { is_known: 1, headers, sum, ..base })
            }
            Some(Sighting::Refused(refusal)) => bail!(
                "--mode redirect cannot send to {}: datagrams leave through {}, {refusal}: use --mode ring",
                self.sensor,
                link.name
            ),
            Some(Sighting::Other) | None => {
                self.unseen += 1;
                self.due = Instant::now() + UNSEEN_PERIOD;
                let is_the_same = self.in_force.ifindex == link.ifindex;
                if is_the_same && self.unseen < UNSEEN_MAX { Ok(()) } else { self.put_in_force(base) }
            }
        }
    }

    /// The interface that datagrams leave through, as the host's routes have it.
    async fn outgoing_link(&self, links: &Links) -> Result<Link> {
        let sensor = self.sensor;
        let ifindex = match route::find(&links.handle, sensor.ip()).await? {
            Route::Through(ifindex) => ifindex,
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

    /// Frames are counted as failed.
    fn no_way(&self) -> Template {
        self.template(0, 0)
    }

    fn template(&self, ifindex: u32, packet_max: u32) -> Template {
        let remote = match self.sensor.ip() {
            IpAddr::V4(address) => [address.to_bits(), 0, 0, 0],
            IpAddr::V6(address) => {
                let bits = address.to_bits();
                [96, 64, 32, 0].map(|shift| ((bits >> shift) as u32).to_be())
            }
        };
        Template {
            ifindex,
            segmenter: self.segmenter.as_ref().map_or(0, |segmenter| segmenter.ifindex),
            segmenter_port: self.segmenter.as_ref().map_or(0, |segmenter| u32::from(segmenter.port)),
            packet_max,
            tunnel: TunnelKey { id: self.vni, remote, tos: 0, ttl: HOPS, ext: 0, label: 0 },
            ..Template::NONE
        }
    }

    fn put_in_force(&mut self, template: Template) -> Result<()> {
        if template != self.in_force || self.is_in_doubt()? {
            self.maps.follow(template)?;
            self.in_force = template;
        }
        Ok(())
    }

    /// Whether a hook has found out that the encapsulating program is not where it should be.
    fn is_in_doubt(&self) -> Result<bool> {
        Ok(self.maps.template()?.is_known != self.in_force.is_known)
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

    /// Whether as many frames have come as the run was limited to.
    #[must_use]
    pub fn is_limit_reached(&self) -> bool {
        self.is_limited && self.maps.is_limit_reached()
    }

    /// What kept frames from leaving: errno, and how often.
    ///
    /// # Errors
    ///
    /// The kernel does not give the counts.
    pub fn errors(&self) -> Result<Vec<(i32, u64)>> {
        let mut errors = self.maps.errors()?;
        errors.push((libc::ECONNREFUSED, self.prober.refusals()));
        Ok(errors)
    }

    /// Takes everything away that it made. The hooks are detached by now.
    pub async fn stop(&mut self, links: &Links) {
        self.segmenting.clear();
        for (ifindex, outgoing) in std::mem::take(&mut self.outgoing) {
            outgoing.detach(ifindex, links).await;
        }
        if let Some(segmenter) = self.segmenter.take() {
            segmenter.remove(&links.handle).await;
        }
    }
}

fn find<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier> {
    let program = ebpf.program_mut(name).with_context(|| format!("the object has no program {name}"))?;
    Ok(program.try_into()?)
}

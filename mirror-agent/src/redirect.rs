//! Redirect mode, as the control plane sees it: the kernel programs send by themselves, and are told how datagrams
//! leave this host, again each time that may have changed.

mod outgoing;
mod prober;
mod target;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf,
    programs::{SchedClassifier, TcAttachType, tc::SchedClassifierLink},
};
use mirror_common::pool::{Table, Tally};

use self::{outgoing::Outgoing, target::Target};
use crate::{
    cli::Oversize,
    encap::encapsulation::Wrapping,
    kernel::{
        clsact,
        load::REDIRECT_PROGRAMS,
        own_paths::OwnPaths,
        redirect::RedirectMaps,
        segmenter::Segmenter,
        support::TcHook,
        tc_link::{self, Attachment},
    },
    links::Links,
    output::stack::{Kind, Stack},
    privileges::{self, Capability},
};

/// How often it is looked whether a limited run is over.
const LIMIT_PERIOD: Duration = Duration::from_millis(20);

/// The time between any two rounds of looks: where interfaces come and go by the hundred, netlink has news all the time.
const LOOK_PERIOD_MIN: Duration = Duration::from_millis(10);

/// The same while there is other work that has to be done at once: a look takes some milliseconds.
const LOOK_PERIOD_AT_LEISURE: Duration = Duration::from_millis(100);

/// How long the start waits for neighbours to answer: the kernel asks three times, a second apart.
const START_TIME: Duration = Duration::from_millis(3500);

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Order {
    /// Where to, by the sensors' numbers.
    pub sensors: Vec<SocketAddr>,
    /// How frames are wrapped.
    pub wrapping: Wrapping,
    /// What becomes of datagrams that are longer than the path takes.
    pub oversize: Oversize,
    /// By which the programs know the probes.
    pub cookie: [u32; 2],
    /// How programs are attached.
    pub hook: TcHook,
    /// Frames after which to stop.
    pub limit: Option<u64>,
}

/// The sending half of the kernel programs.
pub struct Redirect {
    targets: Vec<Target>,
    opener: Opener,
    cookie: [u32; 2],
    /// Number of the last probe.
    probe: u32,
    maps: RedirectMaps,
    own_paths: OwnPaths,
    hook: TcHook,
    segmenter: Option<Segmenter>,
    /// Its programs. They go with the device.
    segmenting: Vec<SchedClassifierLink>,
    /// Where datagrams leave, or have left in this run.
    outgoing: BTreeMap<u32, Outgoing>,
    looked: Instant,
    is_limited: bool,
}

/// Opens the sockets that probes go through.
struct Opener {
    sockets: Kind,
    wrapping: Wrapping,
    oversize: Oversize,
    own_paths: OwnPaths,
    address_changes: Arc<AtomicU64>,
}

impl Opener {
    fn open(&self, sensor: SocketAddr) -> Result<Stack> {
        let (paths, changes) = (Some(self.own_paths.clone()), Arc::clone(&self.address_changes));
        let raw = Stack::open(sensor, self.sockets, self.wrapping.to(sensor.port()), 0, 1, paths, changes)?;
        if self.oversize != Oversize::Fragment {
            raw.forbid_fragments().context("cannot forbid fragments")?;
        }
        Ok(raw)
    }
}

impl Redirect {
    /// Makes the segmenter, and finds out how datagrams leave.
    ///
    /// # Errors
    ///
    /// There is no way to a sensor that redirect mode can take: names ring mode.
    pub async fn start(
        order: Order,
        mut maps: RedirectMaps,
        own_paths: OwnPaths,
        ebpf: &mut Ebpf,
        links: &Links,
    ) -> Result<Self> {
        let Order { sensors, wrapping, oversize, cookie, hook, limit } = order;
        if let Some(frames) = limit {
            maps.limit(frames)?;
        }
        let address_changes = links.address_changes();
        // One port is enough for probes. A raw socket hears also what the network answers to the programs' datagrams.
        let sockets = if privileges::has(Capability::CAP_NET_RAW) { Kind::Raw } else { Kind::Udp(1) };
        let opener = Opener { sockets, wrapping, oversize, own_paths: own_paths.clone(), address_changes };
        let target = |(number, sensor): (u32, SocketAddr)| {
            Ok(Target::new(number, sensor, opener.open(sensor)?, cookie))
        };
        let mut redirect = Self {
            targets: (0..).zip(sensors).map(target).collect::<Result<_>>()?,
            opener,
            cookie,
            probe: 0,
            maps,
            own_paths,
            hook,
            segmenter: None,
            segmenting: Vec::new(),
            outgoing: BTreeMap::new(),
            looked: Instant::now(),
            is_limited: limit.is_some(),
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
        for target in &self.targets {
            target.outgoing_link(links).await?;
        }
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
        for target in &mut self.targets {
            target.cut_off(&mut self.maps, self.segmenter.as_ref())?;
        }
        let deadline = Instant::now() + START_TIME;
        loop {
            for index in 0..self.targets.len() {
                if !self.targets[index].is_known() {
                    self.look(index, ebpf, links).await?;
                }
            }
            let missing: Vec<_> = self.targets.iter().filter(|target| !target.is_known()).collect();
            if missing.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                for target in missing {
                    let sensor = target.sensor;
                    log::warn!("nobody answers for {sensor} yet: it is sent to as soon as somebody does");
                }
                return Ok(());
            }
        }
    }

    /// When [`Self::follow`] is to be called.
    #[must_use]
    pub fn due(&self) -> Instant {
        let now = Instant::now();
        let due = self.targets.iter().map(|target| target.due).min().unwrap_or(now);
        if self.is_limited { due.min(now + LIMIT_PERIOD) } else { due }
    }

    /// The same where there is other work that has to be done at once: a look takes some milliseconds.
    #[must_use]
    pub fn due_at_leisure(&self) -> Instant {
        self.due().max(self.looked + LOOK_PERIOD_AT_LEISURE)
    }

    /// Something changed that may change how datagrams leave.
    pub fn hurry(&mut self) {
        let soon = self.looked + LOOK_PERIOD_MIN;
        self.targets.iter_mut().for_each(|target| target.due = target.due.min(soon));
    }

    /// The same, where that can only be because of the interface with this number.
    pub fn hurry_for(&mut self, ifindex: u32) {
        if self.outgoing.contains_key(&ifindex) || self.targets.iter().any(|target| !target.is_known()) {
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
        for index in 0..self.targets.len() {
            if Instant::now() < self.targets[index].due {
                continue;
            }
            if let Err(error) = self.look(index, ebpf, links).await {
                self.targets[index].note_failure(&error, &mut self.maps, self.segmenter.as_ref());
            }
        }
    }

    async fn look(&mut self, index: usize, ebpf: &mut Ebpf, links: &Links) -> Result<()> {
        self.looked = Instant::now();
        self.maps.set_clock()?;
        let target = &mut self.targets[index];
        let link = target.outgoing_link(links).await?;
        if target.is_in_doubt(&self.maps)? {
            self.outgoing.remove(&link.ifindex);
        }
        if !self.outgoing.contains_key(&link.ifindex) {
            let program = find(ebpf, REDIRECT_PROGRAMS[0])?;
            let outgoing = Outgoing::attach(program, &link, self.hook, links).await?;
            self.outgoing.insert(link.ifindex, outgoing);
        }
        // 0 stands for none.
        self.probe = self.probe.wrapping_add(1).max(1);
        target.look(self.probe, &link, &mut self.maps, self.segmenter.as_ref(), &self.own_paths).await
    }

    /// The sensor with number `index` has another address now. Frames go to the old one until it is known how they get
    /// to this one.
    ///
    /// # Errors
    ///
    /// There is no way to it, or it is of the other family.
    pub fn readdress(&mut self, index: usize, sensor: SocketAddr) -> Result<()> {
        let target = self.targets.get_mut(index).context("there is no such sensor")?;
        if target.sensor.is_ipv4() != sensor.is_ipv4() {
            bail!("--mode redirect keeps to the kind of address that it has started with");
        }
        let raw = self.opener.open(sensor)?;
        let mut successor = Target::new(index as u32, sensor, raw, self.cookie);
        successor.succeed(target);
        *target = successor;
        Ok(())
    }

    /// Says which of several sensors flows go to.
    ///
    /// # Errors
    ///
    /// None that is known.
    pub fn share_out(&mut self, table: &Table) -> Result<()> {
        self.maps.share_out(table)
    }

    /// What was sent to the sensor with number `index`, where there are several.
    ///
    /// # Errors
    ///
    /// None that is known.
    pub fn tally(&self, index: usize) -> Result<Tally> {
        self.maps.tally(index as u32)
    }

    /// How often the network has answered, so far, that a datagram for a sensor was not taken at its end.
    pub fn unreached(&mut self, index: usize) -> u64 {
        self.targets.get_mut(index).map_or(0, |target| target.prober.listen(&mut target.raw))
    }

    /// Whether it is known how datagrams leave to the sensor with number `index`.
    #[must_use]
    pub fn is_known(&self, index: usize) -> bool {
        self.targets.get(index).is_some_and(Target::is_known)
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
        let refusals = self.targets.iter().map(|target| target.prober.refusals()).sum();
        errors.push((libc::ECONNREFUSED, refusals));
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

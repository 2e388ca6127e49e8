//! The real kernel programs, on an interface for a moment.
//!
//! With a filter that takes probe frames only, so that the host's own traffic costs next to nothing, and no agent gets to
//! see it.

use anyhow::{Context as _, Result, bail};
use aya::util::nr_cpus;
use mirror_common::{
    counters::HookCounters,
    own::Ports,
    pool::DESTINATIONS_MAX,
    record::{Direction, FRAME_MAX, RecordHeader},
    settings::{self, Settings},
};

use super::frame::{ETHER_TYPE, ProbeFrame};
use crate::{
    cli::Attach,
    clock::Clock,
    doctor::host::Host,
    encap::{
        encapsulation::Wrapping,
        tunnel::{Encap, Tunnel},
    },
    filter::Filter,
    kernel::{
        accounts::Accounts,
        claim::{Claim, Refusal},
        hooks::{Hooks, Manner, Place},
        load::{self, Loaded},
        own_paths::OwnPaths,
        redirect::RedirectMaps,
        skb_layout,
        support::Support,
    },
    links::Link,
    names::Names,
    redirect::Order,
    source::ring::RingReader,
};

/// The smallest ring: a probe is alone in it.
const RING_SIZE: u32 = 128 << 10;

/// Loaded programs, attached nowhere yet.
pub struct Rig {
    hooks: Hooks,
    ring: Option<RingReader>,
    /// How the hooks know datagrams.
    pub own_paths: OwnPaths,
    /// In redirect mode: what they are told, and what the sending half starts from.
    pub redirect: Option<(RedirectMaps, Order)>,
}

/// A frame that came through a ring.
#[derive(Clone, Debug)]
pub struct Caught {
    /// What the hook says of it.
    pub header: RecordHeader,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// Who mirrors an interface: the process, where it can be seen from here.
#[must_use]
pub fn owner(link: &Link) -> Option<Option<i32>> {
    match Claim::new(link.ifindex) {
        Err(Refusal::Taken(pid)) => Some(pid),
        // What else is wrong, attaching will say.
        Ok(_) | Err(Refusal::Failed(_)) => None,
    }
}

/// How frames are wrapped, as `host` says.
#[must_use]
pub fn wrapping(host: &Host) -> Wrapping {
    Wrapping {
        tunnel: Tunnel::new(host.encap, crate::config::DEFAULT_VNI),
        names: Names::default(),
        clock: Clock::Monotonic,
    }
}

impl Rig {
    /// Loads the programs of ring mode, or of redirect mode.
    ///
    /// # Errors
    ///
    /// The kernel refuses them, or has nothing to attach them to.
    pub fn load(host: &Host, is_redirecting: bool) -> Result<Self> {
        let support = Support::probe()?;
        support.require_live()?;
        let hook = support.tc_hook(Attach::Auto)?;
        let place = Place::Tc(hook);
        let sensors: Vec<_> = host.addresses().take(DESTINATIONS_MAX).collect();
        let cpus = nr_cpus().map_err(|(_, error)| error).context("cannot count the processors")?;
        let number = ProbeFrame::outgoing([0; 6]).tail();
        let cookie =
            [number[4..8].try_into(), number[8..].try_into()].map(|word| word.map_or(0, u32::from_ne_bytes));
        let redirect = settings::Redirect {
            is_on: 1,
            family: match (
                sensors.iter().any(|sensor| sensor.is_ipv6()),
                sensors.iter().all(|sensor| sensor.is_ipv6()),
            ) {
                (false, _) => settings::family::V4,
                (true, true) => settings::family::V6,
                (true, false) => settings::family::MIXED,
            },
            destinations: sensors.len() as u32,
            // Each is to get it.
            is_fanout: u32::from(sensors.len() > 1),
            oversize: settings::oversize::FRAGMENT,
            cpu_bits: cpus.next_power_of_two().ilog2(),
            cookie,
            tunnel_len: host.encap.header_len() as u32,
            is_geneve: u32::from(host.encap != Encap::Vxlan),
            has_metadata: u32::from(host.encap.has_metadata()),
            has_vnis: 0,
        };
        let settings = Settings {
            rings: 1,
            frame_max: FRAME_MAX as u32,
            snaplen: u32::MAX,
            sensor_ports: Ports::of(sensors.iter().map(|sensor| sensor.port())),
            time_stamps: 1,
            has_filter: 1,
            select: settings::Select::ALL,
            skb: skb_layout::find_quietly(),
            redirect: if is_redirecting { redirect } else { settings::Redirect::OFF },
            xdp: settings::XdpLayout::UNKNOWN,
        };
        let filter = Filter::compile(&format!("ether proto {ETHER_TYPE:#x}"))
            .map_err(|mistake| anyhow::anyhow!("cannot compile a filter: {mistake}"))?;
        let Loaded { ebpf, rings, counters, own_paths, redirect: maps, filtered, .. } =
            load::load(&settings, RING_SIZE, place, Some(&filter.program))?;
        let directions = Direction::ALL.to_vec();
        let accounts = Accounts::new(counters, directions.clone(), Names::default());
        let netlink = host.netlink().clone();
        let mut hooks = Hooks::new(ebpf, accounts, own_paths.clone(), directions, place, false, netlink);
        if let Some(filtered) = filtered {
            hooks.keep(filtered);
        }
        let order =
            Order { sensors, wrapping: wrapping(host), oversize: host.oversize, cookie, hook, limit: None };
        Ok(Self { hooks, ring: rings.into_iter().next(), own_paths, redirect: maps.zip(Some(order)) })
    }

    /// Attaches to an interface.
    ///
    /// # Errors
    ///
    /// The kernel refuses, or an agent has the interface by now.
    pub async fn attach(&mut self, link: &Link) -> Result<()> {
        self.hooks.attach(link, Manner::Named).await
    }

    /// Detaches from an interface.
    pub async fn detach(&mut self, link: &Link) {
        self.hooks.forget(link.ifindex, false).await;
    }

    /// Detaches from whatever is left.
    pub async fn detach_all(&mut self) {
        self.hooks.detach_all().await;
    }

    /// The loaded programs.
    pub fn hooks(&mut self) -> &mut Hooks {
        &mut self.hooks
    }

    /// What a hook has counted so far.
    ///
    /// # Errors
    ///
    /// It was never attached.
    pub fn counters(&self, name: &str, direction: Direction) -> Result<HookCounters> {
        let found =
            self.hooks.seen()?.into_iter().find(|seen| seen.name == name && seen.direction == direction);
        match found {
            Some(seen) => Ok(seen.counters),
            None => bail!("nothing was counted on {name}"),
        }
    }

    /// The probe, once it is in the ring.
    pub fn catch(&mut self, frame: &ProbeFrame) -> Option<Caught> {
        let ring = self.ring.as_mut()?;
        let mut caught = None;
        loop {
            let end = {
                let Some(batch) = ring.batch() else { return caught };
                let is_it = |one: &&crate::source::Frame<'_>| frame.is_end_of(one.bytes);
                if let Some(found) = batch.frames.iter().find(is_it) {
                    caught = Some(Caught { header: *found.header, bytes: found.bytes.to_vec() });
                }
                batch.end
            };
            ring.release(end);
        }
    }
}

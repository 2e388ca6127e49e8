//! Attaches the programs to interfaces and takes them away again, beside whatever else is there.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf,
    programs::{SchedClassifier, TcAttachType, tc::SchedClassifierLinkId},
};
use mirror_common::{counters::HookCounters, record::Direction};
use rtnetlink::Handle;

use super::{
    claim::{Claim, Refusal},
    clsact,
    counters::Counters,
    filtered::Filtered,
    own_paths::OwnPaths,
    support::TcHook,
    tc_link::{self, Attachment},
    xdp::{self, XdpHook},
};
use crate::{filter::classic::Program, links::Link, names::Names};

/// The programs' names, in the order of [`Direction::ALL`].
pub const PROGRAMS: [&str; 2] = ["mirror_ingress", "mirror_egress"];

/// In their place where the kernel programs end the run after a number of frames.
pub const LIMITED_PROGRAMS: [&str; 2] = ["mirror_ingr_lim", "mirror_egr_lim"];

/// Where a direction's program sits.
#[must_use]
pub fn attach_type(direction: Direction) -> TcAttachType {
    match direction {
        Direction::Ingress => TcAttachType::Ingress,
        Direction::Egress => TcAttachType::Egress,
    }
}

/// Where programs are attached.
#[derive(Clone, Copy, Debug)]
pub enum Place {
    /// On the TC hooks.
    Tc(TcHook),
    /// The same, with programs that end the run after a number of frames.
    TcLimited(TcHook),
    /// In front of the stack.
    Xdp(XdpHook),
}

impl Place {
    /// The programs that may be attached there.
    #[must_use]
    pub fn programs(self) -> &'static [&'static str] {
        match self {
            Self::Tc(_) => &PROGRAMS,
            Self::TcLimited(_) => &LIMITED_PROGRAMS,
            Self::Xdp(hook) => hook.programs(),
        }
    }
}

/// The loaded programs, and every interface that they are attached to.
pub struct Hooks {
    ebpf: Ebpf,
    counters: Counters,
    own_paths: OwnPaths,
    directions: Vec<Direction>,
    place: Place,
    netlink: Handle,
    attached: BTreeMap<u32, Attached>,
    names: Names,
    filtered: Option<Filtered>,
}

#[derive(Debug)]
struct Attached {
    name: String,
    links: Vec<HookLink>,
    /// Whether the clsact qdisc under our filters is there because of an agent.
    owns_qdisc: bool,
    _claim: Claim,
}

/// A program at its place, by which it lets go.
#[derive(Debug)]
enum HookLink {
    Tc(Direction, SchedClassifierLinkId),
    Xdp(xdp::Attachment),
}

/// What one interface's hooks saw in the whole run.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The interface's number. One that was deleted and made again has several.
    pub ifindex: u32,
    /// The interface's name when its hooks were attached.
    pub name: String,
    /// Which way.
    pub direction: Direction,
    /// The counts.
    pub counters: HookCounters,
}

impl Hooks {
    /// Takes loaded programs. `names` learns every interface that they are attached to.
    #[must_use]
    pub fn new(
        ebpf: Ebpf,
        counters: Counters,
        own_paths: OwnPaths,
        directions: Vec<Direction>,
        place: Place,
        netlink: Handle,
        names: Names,
    ) -> Self {
        let attached = BTreeMap::new();
        Self { ebpf, counters, own_paths, directions, place, netlink, attached, names, filtered: None }
    }

    /// Frames meet a filter, and may meet another one later.
    pub fn keep(&mut self, filtered: Filtered) {
        self.filtered = Some(filtered);
    }

    /// Has all hooks go by another filter, each of them from one frame to the next. None is without one meanwhile.
    ///
    /// # Errors
    ///
    /// The filter is too large for the kernel, and nothing has changed.
    pub fn replace_filter(&mut self, filter: &Program) -> Result<()> {
        let filtered = self.filtered.as_ref().context("frames meet no filter")?;
        filtered.put(&mut self.ebpf, filter)?;
        for Attached { name, links, .. } in self.attached.values_mut() {
            for link in std::mem::take(links) {
                match replace(&mut self.ebpf, self.place, link) {
                    Ok(link) => links.push(link),
                    // Its hook is gone with its interface, as a rule.
                    Err(error) => log::warn!(
                        "{name} is not mirrored any more, since no other program can take the place of its own: {error:#}"
                    ),
                }
            }
        }
        Ok(())
    }

    /// The loaded programs, those of redirect mode among them.
    pub fn ebpf(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    /// Where the programs sit, as the report names it.
    #[must_use]
    pub fn hook_name(&self) -> &'static str {
        match self.place {
            Place::Tc(_) | Place::TcLimited(_) => "tc",
            Place::Xdp(_) => "xdp",
        }
    }

    /// Whether an interface of this name is being mirrored.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.attached.values().any(|attached| attached.name == name)
    }

    /// Attaches to an interface. Nothing stays where it fails.
    ///
    /// # Errors
    ///
    /// Another agent has the interface, it is not Ethernet, or the kernel refuses.
    pub async fn attach(&mut self, link: &Link) -> Result<()> {
        let name = &link.name;
        if !link.is_ethernet {
            bail!("{name} carries no Ethernet frames: mirror an interface that does");
        }
        let claim = match Claim::new(link.ifindex) {
            Ok(claim) => claim,
            Err(Refusal::Taken(pid)) => {
                let pid = pid.map_or_else(|| "in another container".into(), |pid| format!("pid {pid}"));
                bail!("{name} is already mirrored by another mirror-agent ({pid}): stop that one first");
            }
            Err(Refusal::Failed(error)) => {
                return Err(error).with_context(|| format!("cannot claim {name} for this agent"));
            }
        };
        let left_over = clsact::remove_leftovers(&self.netlink, link.ifindex)
            .await
            .with_context(|| format!("cannot look for what a killed agent left on {name}"))?;
        if left_over {
            log::info!("removed the hooks that a killed agent left on {name}");
        }
        // Before the first hook: what it sees has to be counted and named.
        for &direction in &self.directions {
            self.counters.open(link.ifindex, direction)?;
        }
        if self.directions.contains(&Direction::Egress) {
            self.own_paths.watch(link.ifindex);
        }
        self.names.learn(link.ifindex, name);
        let mut attached =
            Attached { name: name.clone(), links: Vec::new(), owns_qdisc: left_over, _claim: claim };
        let mut result = Ok(());
        for direction in self.directions.clone() {
            result = match self.place {
                Place::Tc(hook) | Place::TcLimited(hook) => {
                    self.attach_direction(link, direction, hook, &mut attached)
                }
                Place::Xdp(hook) => xdp::attach(&mut self.ebpf, &self.netlink, link, hook)
                    .await
                    .map(|attachment| attached.links.push(HookLink::Xdp(attachment))),
            };
            if result.is_err() {
                break;
            }
        }
        if let Err(error) = result {
            self.detach(link.ifindex, attached).await;
            return Err(error);
        }
        self.attached.insert(link.ifindex, attached);
        Ok(())
    }

    fn attach_direction(
        &mut self,
        link: &Link,
        direction: Direction,
        hook: TcHook,
        attached: &mut Attached,
    ) -> Result<()> {
        let name = &link.name;
        let program = program(&mut self.ebpf, self.place, direction)?;
        let Attachment { id, added_qdisc } =
            tc_link::attach(program, name, attach_type(direction), hook, clsact::filter)?;
        attached.owns_qdisc |= added_qdisc;
        attached.links.push(HookLink::Tc(direction, id));
        Ok(())
    }

    async fn detach(&mut self, ifindex: u32, attached: Attached) {
        let Attached { name, links, owns_qdisc, _claim } = attached;
        for link in links {
            let result = match link {
                HookLink::Tc(direction, id) => program(&mut self.ebpf, self.place, direction)
                    .and_then(|program| program.detach(id).map_err(anyhow::Error::from)),
                HookLink::Xdp(attachment) => xdp::detach(&mut self.ebpf, attachment),
            };
            if let Err(error) = result {
                // Gone with its interface, as a rule.
                log::debug!("detaching from {name}: {error:#}");
            }
        }
        if owns_qdisc && let Err(error) = clsact::remove_empty_qdisc(&self.netlink, ifindex).await {
            log::debug!("removing the clsact qdisc of {name}: {error}");
        }
    }

    /// Detaches from the interface with this number, if it was mirrored: it is gone, or has another name
    /// now. Returns its name.
    pub async fn forget(&mut self, ifindex: u32) -> Option<String> {
        let attached = self.attached.remove(&ifindex)?;
        let name = attached.name.clone();
        self.detach(ifindex, attached).await;
        Some(name)
    }

    /// The interfaces that are mirrored: number, and name when it was attached to.
    pub fn attached(&self) -> impl Iterator<Item = (u32, &str)> {
        self.attached.iter().map(|(&ifindex, attached)| (ifindex, attached.name.as_str()))
    }

    /// Detaches from everything, and returns when no hook runs any more.
    pub async fn detach_all(&mut self) {
        while let Some((ifindex, attached)) = self.attached.pop_first() {
            self.detach(ifindex, attached).await;
        }
        wait_for_running_programs().await;
    }

    /// What the hooks of each interface counted, the interfaces that are gone included.
    ///
    /// # Errors
    ///
    /// The kernel does not give the counters.
    pub fn seen(&self) -> Result<Vec<Seen>> {
        let mut all = Vec::new();
        for (ifindex, name) in self.names.all() {
            for &direction in &self.directions {
                let counters = self.counters.read(ifindex, direction)?;
                all.push(Seen { ifindex, name: name.clone(), direction, counters });
            }
        }
        Ok(all)
    }
}

/// Has a hook run what the program of its name is now.
fn replace(ebpf: &mut Ebpf, place: Place, link: HookLink) -> Result<HookLink> {
    Ok(match link {
        HookLink::Tc(direction, id) => {
            let program = program(ebpf, place, direction)?;
            let link = program.take_link(id)?;
            HookLink::Tc(direction, program.attach_to_link(link)?)
        }
        HookLink::Xdp(attachment) => HookLink::Xdp(xdp::replace(ebpf, attachment)?),
    })
}

fn program(ebpf: &mut Ebpf, place: Place, direction: Direction) -> Result<&mut SchedClassifier> {
    let name = place.programs().get(direction as usize).context("no program for this direction")?;
    let program = ebpf.program_mut(name).with_context(|| format!("the object has no program {name}"))?;
    Ok(program.try_into()?)
}

/// Programs run under RCU: a grace period after the last hook is gone, none is still running. The kernel
/// waits for one in `membarrier` (kernel/sched/membarrier.c).
async fn wait_for_running_programs() {
    let waits = tokio::task::spawn_blocking(|| {
        // SAFETY: membarrier takes two integers and touches no memory of the process.
        unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_GLOBAL, 0, 0) == 0 }
    });
    if !waits.await.unwrap_or(false) {
        // Refused under nohz_full. A program's run takes microseconds; this is a long time.
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

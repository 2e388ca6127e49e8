//! Attaches the programs to interfaces and takes them away again, beside whatever else is there.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf,
    programs::{SchedClassifier, TcAttachType, tc::SchedClassifierLinkId},
};
use mirror_common::record::Direction;
use nix::net::if_::if_nametoindex;
use rtnetlink::Handle;

use super::{
    accounts::{Accounts, Seen},
    claim::{Claim, Refusal},
    clsact,
    filtered::Filtered,
    own_paths::OwnPaths,
    support::{TcHook, tcx},
    tc_link::{self, Attachment},
    vnis::Vnis,
    xdp::{self, XdpHook},
};
use crate::{filter::classic::Program, links::Link};

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

/// How an interface came to be mirrored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// It was named.
    Named,
    /// A pattern means it.
    Matched {
        /// Whether others come at the same time, and would have to wait.
        in_hurry: bool,
    },
}

/// Interfaces that a pattern means and that get TCX hooks. The kernel waits for a grace period for each program that it
/// attaches or takes away there (kernel/bpf/tcx.c, `tcx_entry_sync`), some ten milliseconds, and lets nobody change
/// the host's network meanwhile: a start and a stop with hundreds would take half a minute.
const TCX_MATCHED_MAX: usize = 16;

/// Longest time that attaching an interface to TCX hooks may have taken last: others came meanwhile, perhaps.
const TCX_PATIENCE: Duration = Duration::from_millis(80);

/// Filters that are looked after at a time: see [`Hooks::tidy`].
const LOOKED_AFTER: usize = 64;

/// The loaded programs, and every interface that they are attached to.
pub struct Hooks {
    ebpf: Ebpf,
    accounts: Accounts,
    own_paths: OwnPaths,
    directions: Vec<Direction>,
    place: Place,
    /// Whether a clsact filter may stand in for TCX.
    is_flexible: bool,
    netlink: Handle,
    attached: BTreeMap<u32, Attached>,
    /// Where frames meet a filter.
    filtered: Option<Filtered>,
    /// Where the kernel programs have to know.
    vnis: Option<Vnis>,
    /// Interfaces on which a killed agent may have left something. Others have come since, with nothing on them.
    suspect: BTreeSet<u32>,
    /// How long the last attachment to TCX hooks took.
    tcx_took: Duration,
    /// The last filter that was looked after.
    looked_at: u32,
}

#[derive(Debug)]
struct Attached {
    name: String,
    manner: Manner,
    links: Vec<HookLink>,
    /// Whether the clsact qdisc under our filters is there because of an agent.
    owns_qdisc: bool,
    _claim: Claim,
}

impl Attached {
    fn is_on(&self, wanted: TcHook) -> bool {
        self.links.iter().any(|link| matches!(link, HookLink::Tc(_, hook, _) if *hook == wanted))
    }
}

/// A program at its place, by which it lets go.
#[derive(Debug)]
enum HookLink {
    Tc(Direction, TcHook, SchedClassifierLinkId),
    Xdp(xdp::Attachment),
}

impl Hooks {
    /// Takes loaded programs. `is_flexible` says that a clsact filter may stand in for TCX hooks, where there are many
    /// interfaces.
    #[must_use]
    pub fn new(
        ebpf: Ebpf,
        accounts: Accounts,
        own_paths: OwnPaths,
        directions: Vec<Direction>,
        place: Place,
        is_flexible: bool,
        netlink: Handle,
    ) -> Self {
        Self {
            ebpf,
            accounts,
            own_paths,
            directions,
            place,
            is_flexible,
            netlink,
            attached: BTreeMap::new(),
            filtered: None,
            vnis: None,
            suspect: BTreeSet::new(),
            tcx_took: Duration::ZERO,
            looked_at: 0,
        }
    }

    /// Tells the programs from now on which network an interface's frames are in.
    #[must_use]
    pub fn with_vnis(self, vnis: Option<Vnis>) -> Self {
        Self { vnis, ..self }
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

    /// Under which name the interface with this number is mirrored, if it is.
    #[must_use]
    pub fn name_of(&self, ifindex: u32) -> Option<&str> {
        self.attached.get(&ifindex).map(|attached| attached.name.as_str())
    }

    /// The names and numbers of all interfaces that are mirrored.
    pub fn names(&self) -> impl Iterator<Item = (&str, u32)> {
        self.attached.iter().map(|(&ifindex, attached)| (attached.name.as_str(), ifindex))
    }

    /// The numbers of all interfaces that are mirrored.
    #[must_use]
    pub fn attached(&self) -> Vec<u32> {
        self.attached.keys().copied().collect()
    }

    /// These interfaces are older than this agent.
    pub fn suspect(&mut self, ifindexes: impl Iterator<Item = u32>) {
        self.suspect.extend(ifindexes);
    }

    /// Attaches to an interface. Nothing stays where it fails.
    ///
    /// # Errors
    ///
    /// Another agent has the interface, it is not Ethernet, or the kernel refuses.
    pub async fn attach(&mut self, link: &Link, manner: Manner) -> Result<()> {
        let result = self.try_attach(link, manner).await;
        if result.is_err() {
            // Another agent has it, perhaps, and may be killed.
            self.suspect.insert(link.ifindex);
        } else {
            self.suspect.remove(&link.ifindex);
        }
        result
    }

    async fn try_attach(&mut self, link: &Link, manner: Manner) -> Result<()> {
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
        let left_over = self.suspect.contains(&link.ifindex)
            && clsact::remove_leftovers(&self.netlink, link.ifindex)
                .await
                .with_context(|| format!("cannot look for what a killed agent left on {name}"))?;
        if left_over {
            log::info!("removed the hooks that a killed agent left on {name}");
        }
        // Before the first hook: what it sees has to be counted and named.
        self.accounts.open(link.ifindex, name)?;
        if self.directions.contains(&Direction::Egress) {
            self.own_paths.watch(link.ifindex);
        }
        if let Some(vnis) = &mut self.vnis {
            vnis.tell(link.ifindex, name)?;
        }
        let mut attached =
            Attached { name: name.clone(), manner, links: Vec::new(), owns_qdisc: left_over, _claim: claim };
        let result = match self.place {
            Place::Tc(hook) | Place::TcLimited(hook) => {
                let hook = self.choose(link, hook, manner);
                self.attach_tc(link, hook, &mut attached)
            }
            Place::Xdp(hook) => xdp::attach(&mut self.ebpf, &self.netlink, link, hook, manner)
                .await
                .map(|attachment| attached.links.push(HookLink::Xdp(attachment))),
        };
        // Interfaces are attached to by name, and names move.
        let result = result.and_then(|()| match if_nametoindex(name.as_str()) {
            Ok(ifindex) if ifindex == link.ifindex => Ok(()),
            _ => bail!("{name} has gone, or changed its name"),
        });
        if let Err(error) = result {
            self.detach(link.ifindex, attached, false).await;
            return Err(error);
        }
        self.attached.insert(link.ifindex, attached);
        Ok(())
    }

    /// The kind of TC hook for an interface, where `wanted` is what the others have.
    fn choose(&self, link: &Link, wanted: TcHook, manner: Manner) -> TcHook {
        let Manner::Matched { in_hurry } = manner else { return wanted };
        if wanted == TcHook::Clsact || !self.is_flexible {
            return wanted;
        }
        let on_tcx = self.attached.values().filter(|attached| {
            matches!(attached.manner, Manner::Matched { .. }) && attached.is_on(TcHook::Tcx)
        });
        if in_hurry {
            // What others have there is looked at later.
            return TcHook::Clsact;
        }
        let is_cheap = self.tcx_took <= TCX_PATIENCE && on_tcx.count() < TCX_MATCHED_MAX;
        if is_cheap || self.is_behind_others(link.ifindex) { TcHook::Tcx } else { TcHook::Clsact }
    }

    /// Whether somebody has programs on an interface's TCX hooks: they run before any filter, and may end the chain.
    fn is_behind_others(&self, ifindex: u32) -> bool {
        let count = |direction: &Direction| tcx::programs_on(ifindex, *direction).unwrap_or(0);
        self.directions.iter().any(|direction| count(direction) > 0)
    }

    fn attach_tc(&mut self, link: &Link, hook: TcHook, attached: &mut Attached) -> Result<()> {
        let started = Instant::now();
        for &direction in &self.directions {
            let program = program(&mut self.ebpf, self.place, direction)?;
            let Attachment { id, added_qdisc } =
                tc_link::attach(program, &link.name, attach_type(direction), hook, clsact::filter)?;
            attached.owns_qdisc |= added_qdisc;
            attached.links.push(HookLink::Tc(direction, hook, id));
        }
        self.tcx_took = match hook {
            TcHook::Tcx => started.elapsed(),
            // What was slow once need not be for ever.
            TcHook::Clsact => self.tcx_took * 7 / 8,
        };
        Ok(())
    }

    /// `is_gone` says that there is no such interface any more: the kernel has taken everything away.
    async fn detach(&mut self, ifindex: u32, attached: Attached, is_gone: bool) {
        let Attached { name, links, owns_qdisc, .. } = attached;
        self.let_go(&name, links);
        if owns_qdisc
            && !is_gone
            && let Err(error) = clsact::remove_empty_qdisc(&self.netlink, ifindex).await
        {
            log::debug!("removing the clsact qdisc of {name}: {error}");
        }
        self.own_paths.unwatch(ifindex);
        self.accounts.close(ifindex);
    }

    fn let_go(&mut self, name: &str, links: Vec<HookLink>) {
        for link in links {
            let result = match link {
                HookLink::Tc(direction, _, id) => program(&mut self.ebpf, self.place, direction)
                    .and_then(|program| program.detach(id).map_err(anyhow::Error::from)),
                HookLink::Xdp(attachment) => xdp::detach(&mut self.ebpf, attachment),
            };
            if let Err(error) = result {
                // Gone with its interface, as a rule.
                log::debug!("detaching from {name}: {error:#}");
            }
        }
    }

    /// Detaches from the interface with this number, if it was mirrored. `is_gone`: it does not exist any more.
    pub async fn forget(&mut self, ifindex: u32, is_gone: bool) {
        if is_gone {
            self.suspect.remove(&ifindex);
        }
        if let Some(attached) = self.attached.remove(&ifindex) {
            self.detach(ifindex, attached, is_gone).await;
        }
        if let Some(vnis) = &mut self.vnis {
            vnis.forget(ifindex);
        }
    }

    /// An interface has another name, and is mirrored under that from now on.
    ///
    /// # Errors
    ///
    /// The kernel does not give the counters.
    pub fn rename(&mut self, ifindex: u32, name: &str, manner: Manner) -> Result<()> {
        if let Some(attached) = self.attached.get_mut(&ifindex) {
            self.accounts.rename(ifindex, name)?;
            if let Some(vnis) = &mut self.vnis {
                vnis.tell(ifindex, name)?;
            }
            attached.name = name.into();
            attached.manner = manner;
        }
        Ok(())
    }

    /// Whether the hooks of an interface are where they were attached: one that was deleted and made again may have its
    /// name and its number, but not those.
    pub async fn is_in_place(&mut self, link: &Link) -> bool {
        let Some(attached) = self.attached.get(&link.ifindex) else { return false };
        for hook in &attached.links {
            let is_there = match hook {
                HookLink::Tc(direction, TcHook::Tcx, _) => program(&mut self.ebpf, self.place, *direction)
                    .and_then(|program| Ok(program.info()?.id()))
                    .and_then(|id| Ok(tcx::has_program(link.ifindex, *direction, id)?))
                    .unwrap_or(false),
                HookLink::Tc(direction, TcHook::Clsact, _) => {
                    clsact::has_filter(&self.netlink, link.ifindex, *direction).await.unwrap_or(true)
                }
                HookLink::Xdp(attachment) => {
                    xdp::is_in_place(&mut self.ebpf, &self.netlink, link, attachment).await
                }
            };
            if !is_there {
                return false;
            }
        }
        true
    }

    /// Whether [`Self::tidy`] has something to do.
    #[must_use]
    pub fn is_untidy(&self) -> bool {
        self.accounts.is_untidy() || self.has_stand_ins()
    }

    /// Whether there are filters where there could be TCX hooks.
    fn has_stand_ins(&self) -> bool {
        let is_tcx = matches!(self.place, Place::Tc(TcHook::Tcx) | Place::TcLimited(TcHook::Tcx));
        is_tcx && self.attached.values().any(|attached| attached.is_on(TcHook::Clsact))
    }

    /// Adds up what was counted of interfaces that are gone. And where somebody has put a program on the TCX hooks of an
    /// interface whose filter stands in for one of the agent's, the filter may not see any frame: the agent moves. To be
    /// called now and then.
    pub async fn tidy(&mut self) {
        self.accounts.tidy();
        if !self.has_stand_ins() {
            return;
        }
        let next = self.attached.range(self.looked_at + 1..).chain(self.attached.range(..=self.looked_at));
        let looked_after: Vec<u32> = next
            .filter(|(_, attached)| attached.is_on(TcHook::Clsact))
            .map(|(&ifindex, _)| ifindex)
            .take(LOOKED_AFTER)
            .collect();
        for ifindex in looked_after {
            self.looked_at = ifindex;
            if self.is_behind_others(ifindex) {
                self.move_to_tcx(ifindex).await;
            }
        }
    }

    /// For as long as it takes nothing is seen. With both at a time, frames would be seen twice.
    async fn move_to_tcx(&mut self, ifindex: u32) {
        let Some(mut attached) = self.attached.remove(&ifindex) else { return };
        let name = attached.name.clone();
        log::info!("{name}: somebody has a program on its TCX hooks, and so has the agent from now on");
        self.let_go(&name, std::mem::take(&mut attached.links));
        let link = Link {
            ifindex,
            name: name.clone(),
            is_ethernet: true,
            is_loopback: false,
            is_agents: false,
            mtu: u32::MAX,
            has_carrier: true,
        };
        if let Err(error) = self.attach_tc(&link, TcHook::Tcx, &mut attached) {
            log::warn!("{error:#}");
            return self.detach(ifindex, attached, false).await;
        }
        if attached.owns_qdisc {
            attached.owns_qdisc = clsact::remove_empty_qdisc(&self.netlink, ifindex).await.is_err();
        }
        self.attached.insert(ifindex, attached);
    }

    /// Detaches from everything, and returns when no hook runs any more.
    pub async fn detach_all(&mut self) {
        while let Some((ifindex, attached)) = self.attached.pop_first() {
            self.detach(ifindex, attached, false).await;
        }
        wait_for_running_programs().await;
    }

    /// What the hooks of each interface counted, the interfaces that are gone included.
    ///
    /// # Errors
    ///
    /// The kernel does not give the counters.
    pub fn seen(&self) -> Result<Vec<Seen>> {
        self.accounts.seen()
    }
}

/// Has a hook run what the program of its name is now.
fn replace(ebpf: &mut Ebpf, place: Place, link: HookLink) -> Result<HookLink> {
    Ok(match link {
        HookLink::Tc(direction, hook, id) => {
            let program = program(ebpf, place, direction)?;
            let link = program.take_link(id)?;
            HookLink::Tc(direction, hook, program.attach_to_link(link)?)
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
pub(super) async fn wait_for_running_programs() {
    let waits = tokio::task::spawn_blocking(|| {
        // SAFETY: membarrier takes two integers and touches no memory of the process.
        unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_GLOBAL, 0, 0) == 0 }
    });
    if !waits.await.unwrap_or(false) {
        // Refused under nohz_full. A program's run takes microseconds; this is a long time.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

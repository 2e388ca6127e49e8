//! What is looked at: this host as it is now, the interfaces and sensors that matter, and running agents.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};

use anyhow::{Context as _, Result, anyhow};
use futures_util::TryStreamExt as _;
use rtnetlink::Handle;
use tokio::runtime::{Builder, Runtime};

use super::{
    agents::{self, Agent},
    args::DoctorArgs,
    capability,
    facts::Facts,
    route::{Through, Way},
};
use crate::{
    cli::{self, Hook, Mode, Oversize},
    encap::tunnel::Encap,
    links::{Link, Links},
    wanted::Wanted,
};

/// What is looked at.
#[derive(Debug)]
pub struct Host {
    runtime: Runtime,
    links: Links,
    /// All interfaces of this network namespace.
    pub all: Vec<Link>,
    facts: Vec<Facts>,
    /// Those that are or will be mirrored.
    pub mirrored: Vec<Link>,
    /// Where frames go.
    pub destinations: Vec<Destination>,
    /// What they are sent in.
    pub encap: Encap,
    /// Where they are encapsulated.
    pub mode: Mode,
    /// Where the kernel program sits.
    pub hook: Hook,
    /// What becomes of datagrams that are too long.
    pub oversize: Oversize,
    /// Those that run in this network namespace, as far as they can be seen from here.
    pub agents: Vec<Agent>,
    /// The effective capabilities of this process, a bit each.
    pub capabilities: u64,
}

/// A sensor.
#[derive(Clone, Debug)]
pub struct Destination {
    /// As the user has it.
    pub text: String,
    /// Its address, or why there is none.
    pub address: Result<SocketAddr, String>,
}

/// The sensor when none is named.
const DEFAULT_DEST: &str = "127.0.0.1";

impl Host {
    /// Asks for all that several checks want to know.
    ///
    /// # Errors
    ///
    /// No netlink, or an interface that was named is not there.
    pub fn look(args: &DoctorArgs) -> Result<Self> {
        let runtime =
            Builder::new_current_thread().enable_all().build().context("cannot ask the host anything")?;
        let links = {
            let _context = runtime.enter();
            Links::connect(false)?
        };
        let all = runtime.block_on(links.all())?;
        let facts = runtime.block_on(facts(&links.handle))?;
        let agents = agents::find();
        let mirrored = mirrored(&all, &args.ifaces, &agents)?;
        let first = agents.first();
        let encap = match args.encap.or_else(|| first.and_then(Agent::encap)) {
            Some(cli::Encap::Geneve) => Encap::Geneve {
                has_metadata: !(args.no_metadata
                    || args.encap.is_none() && first.is_some_and(|agent| agent.args.no_metadata)),
            },
            _ => Encap::Vxlan,
        };
        Ok(Self {
            destinations: destinations(&args.dest, &agents, encap),
            mode: args.mode.or(first.map(Agent::mode)).unwrap_or(Mode::Ring),
            hook: args.hook.or(first.map(Agent::hook)).unwrap_or(Hook::Tc),
            oversize: args.oversize.or(first.map(|agent| agent.args.oversize)).unwrap_or(Oversize::Fragment),
            capabilities: capability::effective("self")?,
            runtime,
            links,
            all,
            facts,
            mirrored,
            encap,
            agents,
        })
    }

    /// For requests, within [`Self::wait`].
    #[must_use]
    pub fn netlink(&self) -> &Handle {
        &self.links.handle
    }

    /// The same, and what follows them.
    #[must_use]
    pub fn links(&self) -> &Links {
        &self.links
    }

    /// Waits for what comes later: netlink answers only meanwhile.
    pub fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Whether this process has a capability, by its number in [`capability`].
    #[must_use]
    pub fn may(&self, capability: u8) -> bool {
        let has = |capability: u8| self.capabilities & (1 << capability) != 0;
        // The kernel takes CAP_SYS_ADMIN for the two that were split off from it in Linux 5.8.
        let by_admin = matches!(capability, capability::BPF | capability::PERFMON);
        has(capability) || by_admin && has(capability::SYS_ADMIN)
    }

    /// The interface with this number.
    #[must_use]
    pub fn link(&self, ifindex: u32) -> Option<&Link> {
        self.all.iter().find(|link| link.ifindex == ifindex)
    }

    /// What netlink tells of the interface with this number, as it was at the start; nothing much where it is gone.
    #[must_use]
    pub fn facts(&self, ifindex: u32) -> Facts {
        self.facts.iter().find(|facts| facts.ifindex == ifindex).cloned().unwrap_or_default()
    }

    /// As they are now, of all interfaces.
    ///
    /// # Errors
    ///
    /// What netlink says.
    pub fn facts_now(&self) -> Result<Vec<Facts>> {
        self.wait(facts(&self.links.handle))
    }

    /// How datagrams get to an address.
    ///
    /// # Errors
    ///
    /// What netlink says.
    pub fn way(&self, address: IpAddr) -> Result<Way> {
        self.wait(Way::find(&self.links.handle, address))
    }

    /// The interfaces by which datagrams leave for the sensors, each once; `lo` for those of this host.
    ///
    /// # Errors
    ///
    /// What netlink says.
    pub fn outgoing(&self) -> Result<Vec<&Link>> {
        let mut found: Vec<&Link> = Vec::new();
        for address in self.addresses() {
            let link = match self.way(address.ip())?.through {
                Through::Local => self.all.iter().find(|link| link.is_loopback),
                Through::Interface(ifindex) => self.link(ifindex),
                Through::None => None,
            };
            found.extend(link.filter(|link| !found.iter().any(|known| known.ifindex == link.ifindex)));
        }
        Ok(found)
    }

    /// The interfaces that are or will be mirrored, and those of [`Self::outgoing`], each once.
    ///
    /// # Errors
    ///
    /// What netlink says.
    pub fn concerned(&self) -> Result<Vec<&Link>> {
        let mut all: Vec<&Link> = self.mirrored.iter().collect();
        let more = self.outgoing()?;
        all.extend(
            more.into_iter().filter(|link| !self.mirrored.iter().any(|one| one.ifindex == link.ifindex)),
        );
        Ok(all)
    }

    /// Whether a sensor is on this host, as far as its address tells.
    ///
    /// # Errors
    ///
    /// What netlink says.
    pub fn has_local_sensor(&self) -> Result<bool> {
        Ok(self.outgoing()?.iter().any(|link| link.is_loopback))
    }

    /// Sensors with an address.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.destinations.iter().filter_map(|destination| destination.address.clone().ok())
    }
}

fn mirrored(all: &[Link], named: &[String], agents: &[Agent]) -> Result<Vec<Link>> {
    let of_agents = || agents.iter().flat_map(Agent::ifaces).collect::<Vec<_>>();
    let is_named = !named.is_empty();
    let wanted = if is_named { named.to_vec() } else { of_agents() };
    if wanted.is_empty() {
        let is_usual =
            |link: &&Link| link.has_carrier && link.is_ethernet && !link.is_loopback && !link.is_agents;
        return Ok(all.iter().filter(is_usual).cloned().collect());
    }
    let wanted = Wanted::new(&wanted, &[]).map_err(|error| anyhow!(error))?;
    if let Some(name) = wanted.names().find(|name| is_named && !all.iter().any(|link| link.name == *name)) {
        let names: Vec<_> = all.iter().map(|link| link.name.as_str()).collect();
        return Err(anyhow!("there is no interface {name} here: there are {}", names.join(", ")));
    }
    Ok(all.iter().filter(|link| wanted.find(link).is_some()).cloned().collect())
}

fn destinations(named: &[String], agents: &[Agent], encap: Encap) -> Vec<Destination> {
    let mut wanted = named.to_vec();
    if wanted.is_empty() {
        wanted.extend(agents.iter().flat_map(Agent::dests));
    }
    if wanted.is_empty() {
        wanted.push(DEFAULT_DEST.into());
    }
    wanted.dedup();
    wanted.into_iter().map(|text| Destination { address: resolve(&text, encap.port()), text }).collect()
}

fn resolve(text: &str, default_port: u16) -> Result<SocketAddr, String> {
    let (host, port, _) = cli::host_port_and_weight(text, default_port)?;
    let mut found = (host.as_str(), port).to_socket_addrs().map_err(|error| error.to_string())?;
    found.next().ok_or_else(|| "it has no address".into())
}

async fn facts(netlink: &Handle) -> Result<Vec<Facts>> {
    let messages: Vec<_> =
        netlink.link().get().execute().try_collect().await.context("cannot list the host's interfaces")?;
    Ok(messages.iter().map(Facts::read).collect())
}

//! Whether the next hop to a sensor answers, asked of the kernel: only so is a sensor noticed that is gone without a
//! word, since a neighbour that was there once is sent to for up to a minute.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::Result;
use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourState,
};

use crate::links::{
    Links,
    route::{self, Route},
};

/// Between two looks; each has a neighbour confirmed anew.
pub const PERIOD: Duration = Duration::from_secs(1);

/// A next hop that was not confirmed for so long is gone: three questions were not answered.
const SILENCE_MAX: Duration = Duration::from_millis(2500);

/// What is known of the ways to all sensors.
#[derive(Debug, Default)]
pub struct Reach {
    /// When each next hop was there last.
    confirmed: HashMap<(u32, IpAddr), Instant>,
    /// Whether the kernel does not let this agent ask neighbours.
    is_passive: bool,
}

pub(crate) type Neighbours = HashMap<(u32, IpAddr), NeighbourState>;

impl Reach {
    /// Which of `sensors` nobody is there for, for certain.
    ///
    /// # Errors
    ///
    /// What netlink says.
    pub async fn look(&mut self, links: &Links, sensors: &[SocketAddr]) -> Result<Vec<bool>> {
        let all = links.all().await?;
        let neighbours = neighbours(links).await?;
        let now = Instant::now();
        let mut gone = Vec::with_capacity(sensors.len());
        let mut hops = HashMap::new();
        for sensor in sensors {
            let (ifindex, router) = match route::find(&links.handle, sensor.ip()).await? {
                Route::Through(ifindex, router) => (ifindex, router),
                Route::Local => {
                    gone.push(false);
                    continue;
                }
                Route::None => {
                    gone.push(true);
                    continue;
                }
            };
            let link = all.iter().find(|link| link.ifindex == ifindex);
            let hop = (ifindex, router.unwrap_or(sensor.ip()));
            gone.push(match link {
                Some(link) if !link.has_carrier => true,
                // Such interfaces have no neighbours.
                Some(link) if !link.is_ethernet || link.is_loopback => false,
                Some(_) => {
                    let since = self.confirmed.get(&hop).copied();
                    let since =
                        if is_confirmed(neighbours.get(&hop), self.is_passive) { None } else { since };
                    let since = since.unwrap_or(now);
                    hops.insert(hop, since);
                    now - since > SILENCE_MAX
                }
                None => true,
            });
        }
        self.confirmed = hops;
        for hop in self.confirmed.keys() {
            if self.is_passive {
                break;
            }
            if let Err(error) = ask(links, *hop, neighbours.get(hop)).await {
                // A replay needs no right to.
                log::debug!("cannot ask neighbours whether they are there: {error}");
                self.is_passive = true;
            }
        }
        Ok(gone)
    }
}

/// Why `sensor` is not reachable, by what the kernel knows at this moment; `None` where nothing speaks against it. A
/// neighbour that is not known to be there is asked, for the next time.
///
/// # Errors
///
/// What netlink says.
pub async fn glance(links: &Links, sensor: SocketAddr) -> Result<Option<String>> {
    let (ifindex, router) = match route::find(&links.handle, sensor.ip()).await? {
        Route::Through(ifindex, router) => (ifindex, router),
        Route::Local => return Ok(None),
        Route::None => return Ok(Some("there is no route to it".into())),
    };
    let Some(link) = links.one(ifindex).await? else {
        return Ok(Some("its interface is gone".into()));
    };
    if !link.has_carrier {
        return Ok(Some(format!("{} is down, or has no link", link.name)));
    }
    if !link.is_ethernet || link.is_loopback {
        return Ok(None);
    }
    let hop = (ifindex, router.unwrap_or(sensor.ip()));
    let all = neighbours(links).await?;
    let state = all.get(&hop);
    if !matches!(state, Some(NeighbourState::Reachable))
        && let Err(error) = ask(links, hop, state).await
    {
        log::debug!("cannot ask {} whether it is there: {error}", hop.1);
        // Who cannot ask knows of no other way to learn of it than to send.
        return Ok(matches!(state, Some(NeighbourState::Failed)).then(|| unanswered(hop.1, &link.name)));
    }
    let is_there = !matches!(state, None | Some(NeighbourState::Failed | NeighbourState::Incomplete));
    Ok((!is_there).then(|| unanswered(hop.1, &link.name)))
}

fn unanswered(hop: IpAddr, name: &str) -> String {
    format!("{hop} has not answered on {name}")
}

/// Whether a neighbour is there. Who cannot ask takes every one for that which the kernel does not know to be gone.
fn is_confirmed(state: Option<&NeighbourState>, is_passive: bool) -> bool {
    match state {
        Some(NeighbourState::Reachable | NeighbourState::Permanent | NeighbourState::Noarp) => true,
        Some(NeighbourState::Failed | NeighbourState::Incomplete) => false,
        _ => is_passive,
    }
}

pub(crate) async fn neighbours(links: &Links) -> Result<Neighbours> {
    let mut all = Neighbours::new();
    let mut messages = links.handle.neighbours().get().execute();
    while let Some(message) = messages.try_next().await? {
        let address = message.attributes.iter().find_map(|attribute| match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some(IpAddr::V4(*address)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
            _ => None,
        });
        if let Some(address) = address {
            all.insert((message.header.ifindex, address), message.header.state);
        }
    }
    Ok(all)
}

/// Has the kernel ask a neighbour whether it is there, without giving up its address meanwhile (`neigh_add` in
/// net/core/neighbour.c).
async fn ask(
    links: &Links,
    hop: (u32, IpAddr),
    state: Option<&NeighbourState>,
) -> Result<(), rtnetlink::Error> {
    let (ifindex, address) = hop;
    let request = links.handle.neighbours().add(ifindex, address).replace();
    let request = match state {
        Some(NeighbourState::Reachable | NeighbourState::Stale | NeighbourState::Delay) => {
            request.state(NeighbourState::Probe)
        }
        // It is being asked already, or need not be.
        Some(
            NeighbourState::Probe
            | NeighbourState::Incomplete
            | NeighbourState::Permanent
            | NeighbourState::Noarp,
        ) => return Ok(()),
        // As if a packet was to be sent to it.
        _ => request.state(NeighbourState::None).flags(NeighbourFlags::Use),
    };
    match request.execute().await {
        // It has changed meanwhile.
        Err(rtnetlink::Error::NetlinkError(error)) if -error.raw_code() != libc::EPERM => Ok(()),
        result => result,
    }
}

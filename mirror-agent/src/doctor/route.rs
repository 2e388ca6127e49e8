//! How the agent's datagrams get to a sensor, and how long they may be.

use std::{fmt::Write as _, net::IpAddr};

use anyhow::Result;
use rtnetlink::{
    Handle,
    packet_route::route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteScope, RouteType,
    },
};

use crate::links::route;

/// A way, as `ip route get ADDRESS mark MARK` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// Where it leads.
    pub through: Through,
    /// The largest packet, where the route says so: as it was set, or as a router on the way has told.
    pub mtu: Option<u32>,
    /// The route as it was set.
    pub route: Option<SetRoute>,
}

/// Where it leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Through {
    /// To this host itself.
    Local,
    /// Through the interface with this number.
    Interface(u32),
    /// Nowhere.
    None,
}

/// A route as it was set, as far as `ip route change` needs to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetRoute {
    /// All but its MTU: `-4 route change ...` is this.
    text: String,
    /// Its MTU.
    pub mtu: Option<u32>,
}

impl Way {
    /// Asks the kernel.
    ///
    /// # Errors
    ///
    /// What netlink says.
    pub async fn find(netlink: &Handle, address: IpAddr) -> Result<Self> {
        let Some(found) = route::ask(netlink, address, RouteFlags::empty()).await? else {
            return Ok(Self { through: Through::None, mtu: None, route: None });
        };
        let oif = found.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Oif(ifindex) => Some(*ifindex),
            _ => None,
        });
        let through = match (found.header.kind, oif) {
            (RouteType::Local, _) => Through::Local,
            (RouteType::Unicast | RouteType::Multicast | RouteType::Broadcast, Some(ifindex)) => {
                Through::Interface(ifindex)
            }
            _ => Through::None,
        };
        let set = route::ask(netlink, address, RouteFlags::FibMatch).await.ok().flatten();
        Ok(Self { through, mtu: mtu(&found), route: set.as_ref().and_then(SetRoute::read) })
    }
}

fn mtu(message: &RouteMessage) -> Option<u32> {
    message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Metrics(metrics) => metrics.iter().find_map(|metric| match metric {
            RouteMetric::Mtu(mtu) => Some(*mtu),
            _ => None,
        }),
        _ => None,
    })
}

impl SetRoute {
    /// `None` for a route that is more than one hop by one interface, with nothing but an MTU set: `ip route change` would
    /// lose the rest.
    fn read(message: &RouteMessage) -> Option<Self> {
        let header = &message.header;
        if header.kind != RouteType::Unicast || header.tos != 0 {
            return None;
        }
        let (mut to, mut via, mut dev, mut rest) = (None, String::new(), None, String::new());
        let mut table = u32::from(header.table);
        let address = |address: &RouteAddress| match address {
            RouteAddress::Inet(address) => Some(address.to_string()),
            RouteAddress::Inet6(address) => Some(address.to_string()),
            _ => None,
        };
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(found) => to = Some(address(found)?),
                RouteAttribute::Gateway(found) => via = format!(" via {}", address(found)?),
                RouteAttribute::Oif(ifindex) => dev = Some(*ifindex),
                RouteAttribute::PrefSource(found) => write!(rest, " src {}", address(found)?).ok()?,
                RouteAttribute::Priority(metric) => write!(rest, " metric {metric}").ok()?,
                RouteAttribute::Table(found) => table = *found,
                RouteAttribute::Metrics(metrics) => {
                    if metrics.iter().any(|metric| !matches!(metric, RouteMetric::Mtu(_))) {
                        return None;
                    }
                }
                RouteAttribute::CacheInfo(_) | RouteAttribute::Preference(_) => {}
                _ => return None,
            }
        }
        let name = nix::net::if_::if_indextoname(dev?).ok()?;
        let name = name.to_str().ok()?;
        let to =
            to.map_or_else(|| "default".into(), |to| format!("{to}/{}", header.destination_prefix_length));
        let version = if message.header.address_family == rtnetlink::packet_route::AddressFamily::Inet6 {
            6
        } else {
            4
        };
        let protocol = u8::from(header.protocol);
        let scope = match header.scope {
            RouteScope::Universe => String::new(),
            scope => format!(" scope {}", u8::from(scope)),
        };
        let table =
            if table == u32::from(libc::RT_TABLE_MAIN) { String::new() } else { format!(" table {table}") };
        let text =
            format!("ip -{version} route change {to}{via} dev {name}{table} proto {protocol}{scope}{rest}");
        Some(Self { text, mtu: mtu(message) })
    }

    /// The command that gives it another MTU, or none.
    #[must_use]
    pub fn with_mtu(&self, mtu: Option<u32>) -> String {
        match mtu {
            Some(mtu) => format!("{} mtu {mtu}", self.text),
            None => self.text.clone(),
        }
    }
}

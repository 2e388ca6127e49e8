//! How this host gets to an address, and what stands in the way of that.

use std::{io, net::IpAddr};

use anyhow::{Context as _, Result};
use futures_util::TryStreamExt as _;
use mirror_common::own;
use rtnetlink::packet_route::{
    AddressFamily,
    address::AddressAttribute,
    neighbour::NeighbourState,
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteType},
};
use socket2::{Domain, SockAddr, Socket, Type};

use super::{finding::Finding, host::Host};
use crate::{
    links::{
        Link,
        route::{self, Route},
    },
    pool::reach,
};

/// A way.
#[derive(Clone, Debug)]
pub enum Way {
    /// To this host itself.
    Local,
    /// Through an interface, to the next hop.
    Through {
        /// The interface.
        link: Link,
        /// The router, or the address itself.
        hop: IpAddr,
        /// What the kernel knows of the next hop's MAC address, if anything.
        neighbour: Option<NeighbourState>,
    },
    /// None.
    None,
}

/// Finds the way to an address, as the agent's datagrams take it.
///
/// # Errors
///
/// What netlink says.
pub fn find(host: &Host, address: IpAddr) -> Result<Way> {
    host.wait(async {
        Ok(match route::find(host.netlink(), address).await? {
            Route::Local => Way::Local,
            Route::None => Way::None,
            Route::Through(ifindex, router) => {
                let hop = router.unwrap_or(address);
                let neighbours = reach::neighbours(host.links()).await?;
                let neighbour = neighbours.get(&(ifindex, hop)).copied();
                let link = host.links().one(ifindex).await?.context("the interface is gone")?;
                Way::Through { link, hop, neighbour }
            }
        })
    })
}

/// What the kernel says to who wants to send to an address that there is no way to.
#[must_use]
pub fn refusal(address: IpAddr) -> Option<io::Error> {
    let socket = Socket::new(Domain::for_address((address, 9).into()), Type::DGRAM, None).ok()?;
    // Without the right to, rules for marks are not asked for.
    let _ = socket.set_mark(own::MARK);
    socket.connect(&SockAddr::from(std::net::SocketAddr::new(address, 9))).err()
}

/// What is found where there is no way to an address, with what makes one.
///
/// # Errors
///
/// What netlink says.
pub fn explain_none(host: &Host, address: IpAddr, why: &str) -> Result<Finding> {
    if let Some(route) = refusing(host, address)? {
        let found = format!("no way to {address}: the route `{route}` refuses it");
        return Ok(
            Finding::fail(found, why).mend(format!("ip route del {route}"), format!("ip route add {route}"))
        );
    }
    // The subnet's own route is there as long as its interface is up.
    if let Some(link) = attached(host, address)?
        && !link.has_carrier
    {
        let found = format!(
            "no way to {address}: {} has an address in its subnet, and is down or has no link",
            link.name
        );
        return Ok(up(Finding::fail(found, why), &link));
    }
    let error = refusal(address).map(|error| format!(": {error}")).unwrap_or_default();
    let found = format!("no route to {address}{error}; ROUTER in the command is for you to fill in");
    let family = if address.is_ipv6() { "-6 " } else { "" };
    Ok(Finding::fail(found, why).mend(
        format!("ip {family}route add {address} via ROUTER"),
        format!("ip {family}route del {address}"),
    ))
}

/// Adds what sets an interface up.
#[must_use]
pub fn up(finding: Finding, link: &Link) -> Finding {
    finding.mend(format!("ip link set {} up", link.name), format!("ip link set {} down", link.name))
}

/// The most exact route that covers an address and leads nowhere, as `ip route` writes it.
fn refusing(host: &Host, address: IpAddr) -> Result<Option<String>> {
    let mut request = RouteMessage::default();
    request.header.address_family =
        if address.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let routes: Vec<RouteMessage> = host
        .wait(host.netlink().route().get(request).execute().try_collect())
        .context("cannot list routes")?;
    let covering = routes.iter().filter_map(|route| {
        let kind = match route.header.kind {
            RouteType::BlackHole => "blackhole",
            RouteType::Unreachable => "unreachable",
            RouteType::Prohibit => "prohibit",
            _ => return None,
        };
        let length = route.header.destination_prefix_length;
        let attribute = route.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(IpAddr::V4(*address)),
            RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
            _ => None,
        });
        let prefix = match attribute {
            Some(prefix) if covers(prefix, length, address) => format!("{prefix}/{length}"),
            None if length == 0 => "default".to_owned(),
            _ => return None,
        };
        let table = route.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Table(table) => Some(*table),
            _ => None,
        });
        let table = match table.unwrap_or(u32::from(route.header.table)) {
            // `RT_TABLE_MAIN`
            254 => String::new(),
            other => format!(" table {other}"),
        };
        Some((length, format!("{kind} {prefix}{table}")))
    });
    Ok(covering.max_by_key(|(length, _)| *length).map(|(_, text)| text))
}

/// The interface that has an address in the same subnet.
fn attached(host: &Host, address: IpAddr) -> Result<Option<Link>> {
    let messages: Vec<_> =
        host.wait(host.netlink().address().get().execute().try_collect()).context("cannot list addresses")?;
    let in_subnet = messages.iter().filter(|message| {
        message.attributes.iter().any(|attribute| match attribute {
            AddressAttribute::Address(own) => covers(*own, message.header.prefix_len, address),
            _ => false,
        })
    });
    Ok(in_subnet
        .max_by_key(|message| message.header.prefix_len)
        .and_then(|message| host.link(message.header.index))
        .cloned())
}

/// Whether the first `length` bits are the same.
fn covers(prefix: IpAddr, length: u8, address: IpAddr) -> bool {
    let (bits, width) = match (prefix, address) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (u128::from(a.to_bits() ^ b.to_bits()), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits(), 128),
        _ => return false,
    };
    let rest = u32::saturating_sub(width, u32::from(length));
    bits.checked_shr(rest).unwrap_or(0) == 0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn prefixes_cover_their_addresses() {
        for (prefix, length, address, expected) in [
            ("10.20.0.0", 16, "10.20.3.4", true),
            ("10.20.0.0", 16, "10.21.3.4", false),
            ("0.0.0.0", 0, "10.21.3.4", true),
            ("10.20.0.2", 32, "10.20.0.2", true),
            ("10.20.0.2", 32, "10.20.0.3", false),
            ("fd00::", 8, "fdff::1", true),
            ("::", 0, "fdff::1", true),
            ("0.0.0.0", 0, "fdff::1", false),
        ] {
            let [prefix, address]: [IpAddr; 2] = [prefix, address].map(|text| text.parse().unwrap());
            assert_eq!(covers(prefix, length, address), expected, "{prefix}/{length} {address}");
        }
    }
}

//! Where the host's routes lead.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use futures_util::TryStreamExt as _;
use mirror_common::own;
use rtnetlink::{
    Handle,
    packet_route::{
        AddressFamily,
        route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteType, RouteVia},
    },
};

/// A route as the agent's datagrams take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Through the interface with this number, by this router; to the address itself, where there is none.
    Through(u32, Option<IpAddr>),
    /// To this host itself.
    Local,
    /// There is none.
    None,
}

/// Asks the kernel for the route to an address, as `ip route get ADDRESS mark MARK` does.
///
/// # Errors
///
/// What netlink says, besides that there is no route.
pub async fn find(netlink: &Handle, address: IpAddr) -> Result<Route> {
    let Some(found) = ask(netlink, address, RouteFlags::empty()).await? else { return Ok(Route::None) };
    let through = found.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(ifindex) => Some(*ifindex),
        _ => None,
    });
    let by = found.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(RouteAddress::Inet(address)) => Some(IpAddr::V4(*address)),
        RouteAttribute::Gateway(RouteAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
        RouteAttribute::Via(RouteVia::Inet(address)) => Some(IpAddr::V4(*address)),
        RouteAttribute::Via(RouteVia::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    });
    Ok(match (found.header.kind, through) {
        (RouteType::Local, _) => Route::Local,
        (RouteType::Unicast | RouteType::Multicast | RouteType::Broadcast, Some(ifindex)) => {
            Route::Through(ifindex, by)
        }
        _ => Route::None,
    })
}

/// As [`find`], with the whole answer: with [`RouteFlags::FibMatch`] the route as it was set, as
/// `ip route get fibmatch` shows it.
///
/// # Errors
///
/// As [`find`].
pub async fn ask(netlink: &Handle, address: IpAddr, flags: RouteFlags) -> Result<Option<RouteMessage>> {
    let mut message = RouteMessage::default();
    let (family, prefix, destination) = match address {
        IpAddr::V4(address) => (AddressFamily::Inet, 32, RouteAddress::Inet(address)),
        IpAddr::V6(address) => (AddressFamily::Inet6, 128, RouteAddress::Inet6(address)),
    };
    message.header.address_family = family;
    message.header.destination_prefix_length = prefix;
    message.header.flags = flags;
    message.attributes = vec![RouteAttribute::Destination(destination), RouteAttribute::Mark(own::MARK)];
    match netlink.route().get(message).execute().try_next().await {
        Ok(found) => Ok(found),
        Err(rtnetlink::Error::NetlinkError(error))
            if matches!(
                -error.raw_code(),
                libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::EINVAL
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error).with_context(|| format!("cannot find the route to {address}")),
    }
}

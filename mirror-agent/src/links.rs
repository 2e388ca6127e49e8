//! The host's interfaces, as netlink tells of them.

mod neighbours;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use anyhow::{Context as _, Result};
use futures_util::{StreamExt as _, TryStreamExt as _};
use rtnetlink::{
    Handle, MulticastGroup,
    packet_core::NetlinkPayload,
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        link::{LinkAttribute, LinkLayerType, LinkMessage},
    },
};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use self::neighbours::Neighbours;

/// An interface that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// Whether its frames start with an Ethernet header.
    pub is_ethernet: bool,
    /// Whether it is `lo`.
    pub is_loopback: bool,
    /// The largest network packet that it takes, in bytes.
    pub mtu: u32,
}

/// What netlink tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The interface with this number is gone.
    Gone(u32),
    /// Something else changed, or a message was lost: look at all interfaces anew.
    Any,
    /// An address, a route, a rule or a neighbour changed: datagrams may leave in another way.
    Way,
}

/// What is always followed.
const GROUPS: &[MulticastGroup] =
    &[MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];

/// What decides how datagrams leave, besides.
const WAYS: [MulticastGroup; 5] = [
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Rule,
];

/// A connection to the kernel's routing netlink, with all changes from now on.
#[derive(Debug)]
pub struct Links {
    /// For requests.
    pub handle: Handle,
    changes: UnboundedReceiver<Change>,
    address_changes: Arc<AtomicU64>,
}

impl Links {
    /// Connects, and starts to listen before anything is asked, so that no change falls in between.
    /// `follows_ways` asks for [`Change::Way`] as well.
    ///
    /// # Errors
    ///
    /// No netlink socket to be had.
    pub fn connect(follows_ways: bool) -> Result<Self> {
        let groups: &[_] = if follows_ways { &[GROUPS, &WAYS].concat() } else { GROUPS };
        let (connection, handle, mut messages) = rtnetlink::new_multicast_connection(groups)
            .context("cannot follow the host's interfaces by netlink")?;
        tokio::spawn(connection);
        let (sender, changes) = unbounded_channel();
        let address_changes = Arc::<AtomicU64>::default();
        let count = Arc::clone(&address_changes);
        tokio::spawn(async move {
            let mut neighbours = Neighbours::default();
            while let Some((message, _)) = messages.next().await {
                let change = match message.payload {
                    NetlinkPayload::InnerMessage(
                        RouteNetlinkMessage::NewAddress(_) | RouteNetlinkMessage::DelAddress(_),
                    ) => {
                        count.fetch_add(1, Ordering::Relaxed);
                        follows_ways.then_some(Change::Way)
                    }
                    NetlinkPayload::InnerMessage(message) => change(&message, &mut neighbours),
                    // Too many changes at once for the socket's buffer.
                    NetlinkPayload::Overrun(_) => {
                        count.fetch_add(1, Ordering::Relaxed);
                        Some(Change::Any)
                    }
                    _ => None,
                };
                if let Some(change) = change
                    && sender.send(change).is_err()
                {
                    return;
                }
            }
        });
        Ok(Self { handle, changes, address_changes })
    }

    /// Counts how often the host's addresses have changed, for sockets that depend on them.
    #[must_use]
    pub fn address_changes(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.address_changes)
    }

    /// All interfaces of this network namespace.
    ///
    /// # Errors
    ///
    /// What netlink says.
    pub async fn all(&self) -> Result<Vec<Link>> {
        let links: Vec<LinkMessage> = self
            .handle
            .link()
            .get()
            .execute()
            .try_collect()
            .await
            .context("cannot list the host's interfaces")?;
        Ok(links.iter().filter_map(read).collect())
    }

    /// Waits for changes, and returns all that have come. Never ends while netlink works.
    pub async fn next_changes(&mut self) -> Option<Vec<Change>> {
        let mut changes = vec![self.changes.recv().await?];
        while let Ok(change) = self.changes.try_recv() {
            changes.push(change);
        }
        Some(changes)
    }
}

fn change(message: &RouteNetlinkMessage, neighbours: &mut Neighbours) -> Option<Change> {
    match message {
        RouteNetlinkMessage::NewLink(_) => Some(Change::Any),
        RouteNetlinkMessage::NewRoute(_)
        | RouteNetlinkMessage::DelRoute(_)
        | RouteNetlinkMessage::NewRule(_)
        | RouteNetlinkMessage::DelRule(_) => Some(Change::Way),
        RouteNetlinkMessage::NewNeighbour(message) => {
            neighbours.is_news(message, false).then_some(Change::Way)
        }
        RouteNetlinkMessage::DelNeighbour(message) => {
            neighbours.is_news(message, true).then_some(Change::Way)
        }
        // A port that leaves its bridge is told as a deletion in the bridge's own family.
        RouteNetlinkMessage::DelLink(link) if link.header.interface_family == AddressFamily::Unspec => {
            Some(Change::Gone(link.header.index))
        }
        _ => None,
    }
}

fn read(message: &LinkMessage) -> Option<Link> {
    let name = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    })?;
    let mtu = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Mtu(mtu) => Some(*mtu),
        _ => None,
    });
    let is_loopback = message.header.link_layer_type == LinkLayerType::Loopback;
    let is_ethernet =
        matches!(message.header.link_layer_type, LinkLayerType::Ether | LinkLayerType::Loopback);
    Some(Link { ifindex: message.header.index, name, is_ethernet, is_loopback, mtu: mtu.unwrap_or(u32::MAX) })
}

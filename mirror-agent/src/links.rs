//! The host's interfaces, as netlink tells of them.

use anyhow::{Context as _, Result};
use futures_util::{StreamExt as _, TryStreamExt as _};
use rtnetlink::{
    Handle, MulticastGroup,
    packet_core::NetlinkPayload,
    packet_route::{
        RouteNetlinkMessage,
        link::{LinkAttribute, LinkLayerType, LinkMessage},
    },
};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// An interface that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// Whether its frames start with an Ethernet header.
    pub is_ethernet: bool,
}

/// What happened to an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is there: new, or changed in some way, such as its name.
    Is(Link),
    /// The one with this number is gone.
    Gone(u32),
}

/// A connection to the kernel's routing netlink, with all changes of interfaces from now on.
#[derive(Debug)]
pub struct Links {
    /// For requests.
    pub handle: Handle,
    changes: UnboundedReceiver<Change>,
}

impl Links {
    /// Connects, and starts to listen before anything is asked, so that no change falls in between.
    ///
    /// # Errors
    ///
    /// No netlink socket to be had.
    pub fn connect() -> Result<Self> {
        let (connection, handle, mut messages) = rtnetlink::new_multicast_connection(&[MulticastGroup::Link])
            .context("cannot follow the host's interfaces by netlink")?;
        tokio::spawn(connection);
        let (sender, changes) = unbounded_channel();
        tokio::spawn(async move {
            while let Some((message, _)) = messages.next().await {
                let NetlinkPayload::InnerMessage(message) = message.payload else {
                    continue;
                };
                let change = match message {
                    RouteNetlinkMessage::NewLink(link) => read(&link).map(Change::Is),
                    RouteNetlinkMessage::DelLink(link) => Some(Change::Gone(link.header.index)),
                    _ => None,
                };
                if let Some(change) = change
                    && sender.send(change).is_err()
                {
                    return;
                }
            }
        });
        Ok(Self { handle, changes })
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

    /// The next change. Never ends while netlink works.
    pub async fn next_change(&mut self) -> Option<Change> {
        self.changes.recv().await
    }
}

fn read(message: &LinkMessage) -> Option<Link> {
    let name = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    })?;
    let is_ethernet =
        matches!(message.header.link_layer_type, LinkLayerType::Ether | LinkLayerType::Loopback);
    Some(Link { ifindex: message.header.index, name, is_ethernet })
}

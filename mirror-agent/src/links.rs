//! The host's interfaces, as netlink tells of them.

mod neighbours;
pub mod route;

use std::{
    os::fd::{AsRawFd as _, BorrowedFd},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use anyhow::{Context as _, Result};
use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use nix::sys::socket::{setsockopt, sockopt};
use rtnetlink::{
    Handle, MulticastGroup,
    packet_core::{NetlinkMessage, NetlinkPayload},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage},
    },
    sys::{AsyncSocket as _, SocketAddr},
};
use tokio::{
    runtime::Builder,
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
};

use self::neighbours::Neighbours;
use crate::{kernel::segmenter, privileges};

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
    /// Whether it is a device of an agent's own, which no pattern means.
    pub is_agents: bool,
    /// The largest network packet that it takes, in bytes.
    pub mtu: u32,
    /// Whether it is up and has a link.
    pub has_carrier: bool,
}

/// What netlink tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The interface with this number is gone.
    Gone(u32),
    /// There is such an interface: a new one, or one that is different now.
    Link(Link),
    /// Messages were lost: look at all interfaces anew.
    Lost,
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

/// Bytes of changes that may wait while the control plane does something else: of thousands of interfaces. The kernel
/// takes the memory when there are that many.
const CHANGES_MAX: usize = 32 << 20;

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
        const SAY: &str = "cannot follow the host's interfaces by netlink";
        // Two sockets: where changes fill the buffer, the answer to a request would be lost, and waited for in vain.
        let (requests, handle, _) = rtnetlink::new_connection().context(SAY)?;
        tokio::spawn(requests);
        // A thread of its own: who reads as long as there is something to read keeps everybody else waiting while
        // interfaces come by the hundred.
        let runtime = Builder::new_current_thread().enable_io().build().context(SAY)?;
        let (connection, messages) = {
            let _context = runtime.enter();
            let (mut connection, _, messages) = rtnetlink::new_multicast_connection(groups).context(SAY)?;
            enlarge_buffer(connection.socket_mut().socket_mut());
            (connection, messages)
        };
        let (sender, changes) = unbounded_channel();
        let address_changes = Arc::<AtomicU64>::default();
        let follower = Follower { follows_ways, sender, address_changes: Arc::clone(&address_changes) };
        let follow = move || {
            privileges::keep(&[]);
            runtime.spawn(connection);
            runtime.block_on(follower.follow(messages));
        };
        thread::Builder::new().name("links".into()).spawn(follow).context(SAY)?;
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

    /// The interface with this number, if there is one.
    ///
    /// # Errors
    ///
    /// What netlink says.
    pub async fn one(&self, ifindex: u32) -> Result<Option<Link>> {
        match self.handle.link().get().match_index(ifindex).execute().try_next().await {
            Ok(message) => Ok(message.as_ref().and_then(read)),
            Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc::ENODEV => Ok(None),
            Err(error) => Err(error).context("cannot ask for an interface of this host"),
        }
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

/// What tells of changes.
struct Follower {
    follows_ways: bool,
    sender: UnboundedSender<Change>,
    address_changes: Arc<AtomicU64>,
}

impl Follower {
    /// Until nobody wants to hear.
    async fn follow(
        self,
        mut messages: impl Stream<Item = (NetlinkMessage<RouteNetlinkMessage>, SocketAddr)> + Unpin,
    ) {
        let mut neighbours = Neighbours::default();
        while let Some((message, _)) = messages.next().await {
            let change = match message.payload {
                NetlinkPayload::InnerMessage(
                    RouteNetlinkMessage::NewAddress(_) | RouteNetlinkMessage::DelAddress(_),
                ) => {
                    self.address_changes.fetch_add(1, Ordering::Relaxed);
                    self.follows_ways.then_some(Change::Way)
                }
                NetlinkPayload::InnerMessage(message) => change(&message, &mut neighbours),
                // Too many changes at once for the socket's buffer.
                NetlinkPayload::Overrun(_) => {
                    self.address_changes.fetch_add(1, Ordering::Relaxed);
                    Some(Change::Lost)
                }
                _ => None,
            };
            if let Some(change) = change
                && self.sender.send(change).is_err()
            {
                return;
            }
        }
    }
}

fn change(message: &RouteNetlinkMessage, neighbours: &mut Neighbours) -> Option<Change> {
    match message {
        // What a bridge tells of a port, in its own family, is no news of the interface.
        RouteNetlinkMessage::NewLink(link) if link.header.interface_family == AddressFamily::Unspec => {
            read(link).map(Change::Link)
        }
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
    Some(Link {
        ifindex: message.header.index,
        is_agents: segmenter::is_one(message, &name),
        name,
        is_ethernet,
        is_loopback,
        mtu: mtu.unwrap_or(u32::MAX),
        has_carrier: message.header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp),
    })
}

/// Beyond what programs without rights may have. Where it is refused, a loss is made up for by [`Change::Lost`].
fn enlarge_buffer(socket: &rtnetlink::sys::Socket) {
    // SAFETY: the descriptor is open as long as `socket` is borrowed.
    let socket = unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) };
    if let Err(error) = setsockopt(&socket, sockopt::RcvBufForce, &CHANGES_MAX) {
        log::debug!("the buffer for changes of interfaces stays small: {error}");
    }
}

//! A way past the host's stack to one interface: the fastest that can be had and is right.

use std::io;

use super::{
    books::Books,
    interface::Interface,
    packet_socket::PacketSocket,
    program::{self, ProgramSender},
    story::Way,
    xsk,
    xsk::Xsk,
};
use crate::encap::{
    encapsulation::Encapsulation,
    outer::{Ids, Outer},
};

/// A sender of ready-made packets.
#[derive(Debug)]
pub(super) enum Card {
    Program(ProgramSender),
    Xsk(Xsk),
    Socket(PacketSocket),
    /// Through the interface's queue: one of the agent's hooks sees what leaves, and counts it as `own`.
    Queue(PacketSocket),
}

/// Drivers of devices that hand a packet on to another device. Some of them look at what protocol it is,
/// which AF_XDP does not say (`skb->protocol`): bonds spread load by it, ipvlan drops what it does not know.
const STACKED: [&str; 7] = ["bonding", "team", "ipvlan", "macvlan", "bridge", "802.1Q VLAN Support", "vxlan"];

impl Card {
    /// Whether a program in the kernel is a good way to send packets of `mtu` bytes to `interface`.
    pub(super) fn suits_program(interface: &mut Interface, mtu: usize) -> bool {
        mtu <= program::MTU_MAX && interface.driver() == "veth"
    }

    /// Opens a way to `interface`, for packets of `mtu` bytes: through its queue if it `is_watched` by a hook,
    /// else by AF_XDP if `try_xsk` says so and it can be had.
    pub(super) fn open(
        interface: &mut Interface,
        mtu: usize,
        is_marked: bool,
        is_watched: bool,
        try_xsk: bool,
    ) -> io::Result<Self> {
        if is_watched {
            return PacketSocket::open(interface.ifindex(), is_marked, true).map(Self::Queue);
        }
        if try_xsk && let Some(faster) = Self::open_xsk(interface, mtu, is_marked) {
            return Ok(faster);
        }
        PacketSocket::open(interface.ifindex(), is_marked, false).map(Self::Socket)
    }

    /// Opens a way by AF_XDP, or none where that cannot be had or is of no use.
    pub(super) fn open_xsk(interface: &mut Interface, mtu: usize, is_marked: bool) -> Option<Self> {
        if mtu > xsk::MTU_MAX || STACKED.contains(&interface.driver().as_str()) {
            return None;
        }
        match Xsk::open(interface.ifindex(), is_marked) {
            Ok(xsk) => Some(Self::Xsk(xsk)),
            Err(error) => {
                log::debug!("no AF_XDP on {}: {error}", interface.name());
                None
            }
        }
    }

    /// Which way it is.
    pub(super) fn way(&self) -> Way {
        match self {
            Self::Program(_) => Way::Program,
            Self::Xsk(_) => Way::Xdp,
            Self::Socket(_) => Way::PacketSocket,
            Self::Queue(_) => Way::Queue,
        }
    }

    /// Whether an egress hook of the interface sees what is sent.
    pub(super) fn is_seen(&self) -> bool {
        matches!(self, Self::Program(_) | Self::Queue(_))
    }

    /// Whether packets of `mtu` bytes can be sent.
    pub(super) fn takes(&self, mtu: usize) -> bool {
        match self {
            Self::Program(_) => mtu <= program::MTU_MAX,
            Self::Xsk(_) => mtu <= xsk::MTU_MAX,
            Self::Socket(_) | Self::Queue(_) => true,
        }
    }

    /// Sends the frames of `books`, in order. Fails with the errno that says that the interface is down or
    /// gone, or EIO where this way does not work on it; the frames that `books` has not counted were not sent.
    pub(super) fn send(
        &mut self,
        outer: &Outer,
        encapsulation: &mut Encapsulation,
        mtu: usize,
        ids: &mut Ids,
        books: &mut Books<'_>,
    ) -> Result<(), i32> {
        match self {
            Self::Program(program) => program.send(outer, encapsulation, mtu, ids, books),
            Self::Xsk(xsk) => xsk.send(outer, encapsulation, mtu, ids, books),
            Self::Socket(socket) | Self::Queue(socket) => socket.send(outer, encapsulation, mtu, ids, books),
        }
    }

    /// Whether all that was sent has left this host.
    pub(super) fn is_drained(&mut self) -> bool {
        match self {
            // What waits, if anything does, waits in the queue that the stack's packets take as well.
            Self::Program(_) => true,
            Self::Xsk(xsk) => xsk.is_drained(),
            Self::Socket(socket) | Self::Queue(socket) => socket.is_drained(),
        }
    }
}

//! A way past the host's stack to one interface: the faster of two that can be had.

use std::io;

use super::{books::Books, interface::Interface, packet_socket::PacketSocket, xsk, xsk::Xsk};
use crate::encap::outer::{Ids, Outer};

/// A sender of ready-made packets.
#[derive(Debug)]
pub(super) enum Card {
    Xsk(Xsk),
    Socket(PacketSocket),
}

/// Drivers of devices that hand a packet on to another device. Some of them look at what protocol it is,
/// which AF_XDP does not say (`skb->protocol`): bonds spread load by it, ipvlan drops what it does not know.
const STACKED: [&str; 7] = ["bonding", "team", "ipvlan", "macvlan", "bridge", "802.1Q VLAN Support", "vxlan"];

impl Card {
    /// Opens a way to `interface`, whose number is `ifindex`, for packets of `mtu` bytes. `try_xsk` is
    /// whether AF_XDP may be tried.
    pub(super) fn open(
        interface: &mut Interface,
        ifindex: u32,
        mtu: usize,
        is_marked: bool,
        try_xsk: bool,
    ) -> io::Result<Self> {
        let driver = interface.driver();
        if try_xsk && mtu <= xsk::MTU_MAX && !STACKED.contains(&driver.as_str()) {
            match Xsk::open(ifindex, is_marked) {
                Ok(xsk) => return Ok(Self::Xsk(xsk)),
                Err(error) => log::debug!("no AF_XDP on {}: {error}", interface.name()),
            }
        }
        PacketSocket::open(ifindex, is_marked).map(Self::Socket)
    }

    /// Whether packets of `mtu` bytes can be sent.
    pub(super) fn takes(&self, mtu: usize) -> bool {
        match self {
            Self::Xsk(_) => mtu <= xsk::MTU_MAX,
            Self::Socket(_) => true,
        }
    }

    /// Sends the frames of `books`, in order. Fails with the errno that says that the interface is down or
    /// gone, or EIO where AF_XDP does not work on it; the frames that `books` has not counted were not sent.
    pub(super) fn send(
        &mut self,
        outer: &Outer,
        mtu: usize,
        ids: &mut Ids,
        books: &mut Books<'_>,
    ) -> Result<(), i32> {
        match self {
            Self::Xsk(xsk) => xsk.send(outer, mtu, ids, books),
            Self::Socket(socket) => socket.send(outer, mtu, ids, books),
        }
    }

    /// Whether all that was sent has left this host.
    pub(super) fn is_drained(&mut self) -> bool {
        match self {
            Self::Xsk(xsk) => xsk.is_drained(),
            Self::Socket(socket) => socket.is_drained(),
        }
    }
}

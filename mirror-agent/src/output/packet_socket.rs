//! Sends ready-made packets by a packet socket (packet(7)), past the host's IP stack.
//!
//! Straight to an interface's driver, queue disciplines, egress hooks and taps are passed by
//! (`packet_direct_xmit` in net/packet/af_packet.c): tcpdump on this host does not see these packets. Where a
//! hook has to see them they take their turn in the interface's queue.

use std::{
    io, mem,
    os::fd::{AsRawFd as _, OwnedFd},
    thread,
};

use arrayvec::ArrayVec;
use mirror_common::own;

use super::{
    PAUSE, TRIES,
    books::{Books, Part},
    messages::{self, Pieces, messages, pieces},
    sockopt,
};
use crate::{
    encap::{
        encapsulation::Encapsulation,
        fragment::Packet,
        outer::{Ids, Outer},
    },
    source::BATCH,
};

/// A packet socket that only sends, on one interface.
#[derive(Debug)]
pub struct PacketSocket {
    socket: OwnedFd,
    staged: Box<ArrayVec<(Packet, Part), BATCH>>,
}

impl PacketSocket {
    /// Opens a way to the interface with number `ifindex`: to its queue if `by_queue`, else to its driver.
    /// `is_marked` says whether packets carry [`own::MARK`], which needs CAP_NET_ADMIN.
    ///
    /// # Errors
    ///
    /// No right to open packet sockets, or no such interface.
    pub fn open(ifindex: u32, is_marked: bool, by_queue: bool) -> io::Result<Self> {
        // Protocol 0: nothing is received.
        let socket = sockopt::open(libc::AF_PACKET, libc::SOCK_RAW, 0)?;
        sockopt::set(&socket, libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, &i32::from(!by_queue))?;
        sockopt::widen_send_buffer(&socket)?;
        if is_marked {
            sockopt::set(&socket, libc::SOL_SOCKET, libc::SO_MARK, &own::MARK)?;
        }
        bind(&socket, ifindex, 0)?;
        Ok(Self { socket, staged: Box::default() })
    }

    /// Sends the frames of `books`, in order.
    ///
    /// # Errors
    ///
    /// The errno that says that the interface is down or gone. The frames that `books` has not counted were
    /// not sent.
    pub fn send(
        &mut self,
        outer: &Outer,
        encapsulation: &mut Encapsulation,
        mtu: usize,
        ids: &mut Ids,
        books: &mut Books<'_>,
    ) -> Result<(), i32> {
        self.staged.clear();
        for (index, frame) in books.frames.iter().enumerate() {
            let headers = encapsulation.headers(frame);
            let Some(mut packets) = outer.packets(headers, frame.parts(), mtu, ids.draw()) else {
                self.push_out(books)?;
                books.gave_up(Part { frame: index, is_last: true }, libc::EMSGSIZE);
                continue;
            };
            while let Some(packet) = packets.next() {
                if self.staged.is_full() {
                    self.push_out(books)?;
                }
                self.staged.push((packet, Part { frame: index, is_last: packets.is_over() }));
            }
        }
        self.push_out(books)
    }

    /// Whether all that was sent has left this host.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        sockopt::is_drained(&self.socket)
    }

    fn push_out(&mut self, books: &mut Books<'_>) -> Result<(), i32> {
        let mut iovecs = ArrayVec::<Pieces, BATCH>::new();
        for (packet, part) in self.staged.iter() {
            let [head, bytes] = books.body(part.frame, packet);
            iovecs.push(pieces([packet.header(), head, bytes]));
        }
        let mut messages = messages(&mut iovecs);
        let mut done = 0;
        let mut tries = 0;
        while let Some(&(_, part)) = self.staged.get(done) {
            if books.is_lost(part.frame) {
                books.gave_up(part, 0);
                done += 1;
                continue;
            }
            match self.send_some(&mut messages[done..]) {
                Ok(sent) => {
                    self.staged[done..done + sent].iter().for_each(|&(_, part)| books.sent(part));
                    done += sent;
                    tries = 0;
                }
                Err(libc::EINTR) => {}
                Err(errno @ (libc::ENETDOWN | libc::ENODEV | libc::ENXIO)) => return Err(errno),
                Err(errno) => {
                    tries += 1;
                    // ENOBUFS is also a packet that the driver dropped (`packet_snd`).
                    if matches!(errno, libc::ENOBUFS | libc::EAGAIN | libc::ENOMEM) && tries < TRIES {
                        thread::sleep(PAUSE);
                        continue;
                    }
                    books.gave_up(part, errno);
                    done += 1;
                    tries = 0;
                }
            }
        }
        self.staged.clear();
        Ok(())
    }

    /// Sends what of `messages` the kernel takes in one call.
    fn send_some(&self, messages: &mut [libc::mmsghdr]) -> Result<usize, i32> {
        // SAFETY: every message points to iovecs, and these to a header in `staged` and to a frame, which
        // the caller keeps alive; the slice is at most BATCH long.
        let sent = unsafe { messages::send(&self.socket, messages, libc::MSG_DONTWAIT) };
        sent.map_err(|error| error.raw_os_error().unwrap_or(libc::EIO))
    }
}

/// Binds a packet socket to an interface, 0 for all of them, and to a protocol in host order, 0 for none.
pub(crate) fn bind(socket: &OwnedFd, ifindex: u32, protocol: u16) -> io::Result<()> {
    // SAFETY: all fields of sockaddr_ll are integers, for which zero is a value.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol.to_be();
    address.sll_ifindex = ifindex.cast_signed();
    // SAFETY: `address` is a sockaddr_ll of the size that is said.
    let result = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            mem::size_of_val(&address) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

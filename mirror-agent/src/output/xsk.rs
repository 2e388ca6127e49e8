//! Sends ready-made packets by an AF_XDP socket in copy mode, straight to an interface's driver.
//!
//! In copy mode the kernel makes a socket buffer of each packet and hands it to the driver within the system
//! call (`__xsk_generic_xmit` in net/xdp/xsk.c): it works on every interface, needs no XDP program, receives
//! nothing, and costs less per packet than a packet socket does. Queue disciplines, egress hooks and taps are
//! passed by: tcpdump on this host does not see these packets. As long as the socket exists, no other
//! program of the host gets an AF_XDP socket on the same queue, and ethtool takes no channels away from
//! under it.

use std::{
    io, mem,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    ptr, thread,
};

use mirror_common::{own, record::RINGS_MAX};

use self::{
    queue::{CHUNK, CHUNKS, Queue, TX_SLOTS},
    ring::Ring,
};
use super::{
    PAUSE, TRIES,
    books::{Books, Part},
    sockopt,
};
use crate::{
    encap::{
        encapsulation::Encapsulation,
        outer::{ETHERNET_LEN, Ids, Outer},
    },
    mapping::Mapping,
};

mod queue;
mod ring;

/// The largest network packet that can be sent this way.
pub const MTU_MAX: usize = CHUNK - ETHERNET_LEN;

/// Packets that one system call may hand over: linux/if_xdp.h, since Linux 6.17. Before, and where nothing
/// is set, 32.
const XDP_MAX_TX_SKB_BUDGET: i32 = 9;

/// An AF_XDP socket that only sends, on one queue of an interface.
#[derive(Debug)]
pub struct Xsk {
    /// Before the memory that the kernel reads, so that it is closed first.
    socket: OwnedFd,
    queue: Queue,
}

impl Xsk {
    /// Opens a way to the interface with number `ifindex`, on the first of its queues that nobody else has
    /// for AF_XDP. `is_marked` says whether packets carry [`own::MARK`], which needs CAP_NET_ADMIN.
    ///
    /// # Errors
    ///
    /// The kernel has no AF_XDP, no right to use it, all queues in use, or memory that may not be locked
    /// (RLIMIT_MEMLOCK without CAP_IPC_LOCK).
    pub fn open(ifindex: u32, is_marked: bool) -> io::Result<Self> {
        let socket = sockopt::open(libc::AF_XDP, libc::SOCK_RAW, 0)?;
        let umem = Mapping::anonymous(CHUNKS * CHUNK)?;
        // SAFETY: all-zero is a valid xdp_umem_reg: integers.
        let mut area: libc::xdp_umem_reg = unsafe { mem::zeroed() };
        area.addr = umem.address().as_ptr().expose_provenance() as u64;
        area.len = umem.length() as u64;
        area.chunk_size = CHUNK as u32;
        sockopt::set(&socket, libc::SOL_XDP, libc::XDP_UMEM_REG, &area)?;
        // Nothing is received, but the kernel binds no memory without this ring.
        sockopt::set(&socket, libc::SOL_XDP, libc::XDP_UMEM_FILL_RING, &1_i32)?;
        sockopt::set(&socket, libc::SOL_XDP, libc::XDP_UMEM_COMPLETION_RING, &(CHUNKS as i32))?;
        sockopt::set(&socket, libc::SOL_XDP, libc::XDP_TX_RING, &(TX_SLOTS as i32))?;
        sockopt::widen_send_buffer(&socket)?;
        if is_marked {
            sockopt::set(&socket, libc::SOL_SOCKET, libc::SO_MARK, &own::MARK)?;
        }
        // An older kernel takes two calls where this one takes one.
        let _ = sockopt::set(&socket, libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, &(TX_SLOTS as i32));
        let offsets: libc::xdp_mmap_offsets = sockopt::get(&socket, libc::SOL_XDP, libc::XDP_MMAP_OFFSETS)?;
        let tx = Ring::map(socket.as_fd(), libc::XDP_PGOFF_TX_RING as u64, &offsets.tx, TX_SLOTS)?;
        let completions =
            Ring::map(socket.as_fd(), libc::XDP_UMEM_PGOFF_COMPLETION_RING, &offsets.cr, CHUNKS)?;
        bind(&socket, ifindex)?;
        Ok(Self { socket, queue: Queue::new(tx, completions, umem) })
    }

    /// Sends the frames of `books`, in order. A packet that the driver dropped (EBUSY) is tried again, and
    /// counted as ENOBUFS where it is given up: that is what other sockets say.
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
        for (index, frame) in books.frames.iter().enumerate() {
            let headers = encapsulation.headers(frame);
            let Some(mut packets) = outer.packets(headers, frame.parts(), mtu.min(MTU_MAX), ids.draw())
            else {
                self.push_out(books)?;
                books.gave_up(Part { frame: index, is_last: true }, libc::EMSGSIZE);
                continue;
            };
            while let Some(packet) = packets.next() {
                let part = Part { frame: index, is_last: packets.is_over() };
                if !self.queue.has_room() {
                    self.push_out(books)?;
                }
                if books.is_lost(index) {
                    // The fragments of a datagram that is lost are of no use.
                    books.gave_up(part, 0);
                } else if self.queue.has_room() || self.wait_for_room() {
                    self.queue.stage(packet.header(), books.body(index, &packet), part);
                } else {
                    books.gave_up(part, libc::ENOBUFS);
                }
            }
        }
        self.push_out(books)
    }

    /// Whether all that was sent has left this host.
    #[must_use]
    pub fn is_drained(&mut self) -> bool {
        self.queue.reclaim();
        self.queue.is_drained()
    }

    /// All memory is with the driver: waits for some to come back.
    fn wait_for_room(&mut self) -> bool {
        (0..TRIES).any(|_| {
            thread::sleep(PAUSE);
            self.queue.reclaim();
            self.queue.has_room()
        })
    }

    fn push_out(&mut self, books: &mut Books<'_>) -> Result<(), i32> {
        let Self { socket, queue } = self;
        queue.push_out(books, || kick(socket), || thread::sleep(PAUSE))
    }
}

/// Lets the kernel send from the ring.
fn kick(socket: &OwnedFd) -> Result<(), i32> {
    // SAFETY: no data and no address are handed over; the ring and the memory that it names belong to the
    // socket.
    let result =
        unsafe { libc::sendto(socket.as_raw_fd(), ptr::null(), 0, libc::MSG_DONTWAIT, ptr::null(), 0) };
    if result >= 0 {
        return Ok(());
    }
    Err(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
}

/// Binds to the first free queue, so that each of the agent's threads gets one where the interface has
/// several.
fn bind(socket: &OwnedFd, ifindex: u32) -> io::Result<()> {
    // SAFETY: all-zero is a valid sockaddr_xdp: integers.
    let mut address: libc::sockaddr_xdp = unsafe { mem::zeroed() };
    address.sxdp_family = libc::AF_XDP as u16;
    address.sxdp_flags = libc::XDP_COPY;
    address.sxdp_ifindex = ifindex;
    let mut busy = None;
    for queue in 0..RINGS_MAX as u32 {
        address.sxdp_queue_id = queue;
        // SAFETY: `address` is a sockaddr_xdp of the size that is said.
        let result = unsafe {
            libc::bind(
                socket.as_raw_fd(),
                (&raw const address).cast(),
                mem::size_of_val(&address) as libc::socklen_t,
            )
        };
        if result == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EBUSY) => busy = Some(error),
            // There is no such queue.
            Some(libc::EINVAL) if busy.is_some() => break,
            _ => return Err(error),
        }
    }
    Err(busy.unwrap_or_else(|| io::ErrorKind::ResourceBusy.into()))
}

//! Sends datagrams through the host's IP stack with any source port.
//!
//! A raw socket of protocol UDP (raw(7)): the agent writes the UDP header, the kernel does everything
//! below, so that routing, policy rules, NAT, tunnels and fragmentation are the host's own. Against one
//! bound UDP socket per source port it takes no port away from the host's programs, of which the dynamic
//! range is also theirs, and one socket keeps the order of all that is sent.

use std::{
    io, mem,
    net::SocketAddr,
    os::fd::AsRawFd as _,
    ptr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use arrayvec::ArrayVec;
use mirror_common::{flow, own};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::{
    Output, PAUSE, TRIES,
    messages::{Pieces, messages, pieces},
    sockopt::{self, set},
};
use crate::{
    encap::{
        encapsulation::{Encapsulation, Headers},
        outer::Version,
    },
    kernel::own_paths::OwnPaths,
    ledger::OutputCounters,
    source::{BATCH, Frame},
};

/// One thread's way to a sensor.
pub struct RawSocket {
    socket: Socket,
    sensor: SocketAddr,
    own_paths: Option<OwnPaths>,
    /// Whether datagrams carry [`own::MARK`].
    is_marked: bool,
    encapsulation: Encapsulation,
    /// This thread's ring and the number of rings: tells whose datagram a network error is about.
    ring: u32,
    rings: u32,
    headers: Box<[Headers; BATCH]>,
    /// When the source address was last looked up.
    connected: Instant,
    /// How often addresses of the host have changed, as netlink tells: IPv6 goes on sending from an
    /// address that is gone, and says nothing.
    address_changes: Arc<AtomicU64>,
    changes_seen: u64,
    /// Batches since the last look at reported errors.
    batches: u32,
    /// Whether this host, or a router, refused a datagram for its length.
    has_shorter_path: bool,
}

/// Batches between two looks at the errors that were reported, under load.
const BATCHES_PER_LOOK: u32 = 64;

/// Shortest time between two looks for another source address.
const RECONNECT_EVERY: Duration = Duration::from_secs(1);

impl RawSocket {
    /// Opens a way to `sensor` for the thread that serves `ring` of `rings`. Datagrams get their headers from
    /// `encapsulation`. `own_paths` is for hooks that
    /// must know the datagrams. `address_changes` counts how often the host's addresses have changed.
    ///
    /// # Errors
    ///
    /// No right to open raw sockets, none to mark datagrams where hooks must know them, or no route to the
    /// sensor.
    pub fn open(
        sensor: SocketAddr,
        encapsulation: Encapsulation,
        ring: u32,
        rings: u32,
        own_paths: Option<OwnPaths>,
        address_changes: Arc<AtomicU64>,
    ) -> Result<Self> {
        let domain = Domain::for_address(sensor);
        let socket =
            Socket::new(domain, Type::RAW, Some(Protocol::UDP)).context("cannot open a raw socket")?;
        refuse_everything(&socket)?;
        let is_marked = match socket.set_mark(own::MARK) {
            Ok(()) => true,
            // Needs CAP_NET_ADMIN, and is of use to hooks only.
            Err(error) if error.raw_os_error() == Some(libc::EPERM) && own_paths.is_none() => false,
            Err(error) => return Err(error).context("cannot mark the agent's own datagrams"),
        };
        sockopt::widen_send_buffer(&socket)?;
        match domain {
            Domain::IPV4 => {
                // Tells of full queues, and of ICMP errors with the datagram that they are about.
                set(&socket, libc::IPPROTO_IP, libc::IP_RECVERR, &1_i32)?;
                // What does not fit the path is fragmented rather than refused.
                set(&socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, &libc::IP_PMTUDISC_DONT)?;
            }
            _ => {
                set(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVERR, &1_i32)?;
                set(&socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, &libc::IPV6_PMTUDISC_DONT)?;
                // UDP over IPv6 has a checksum (RFC 8200 section 8.1): the kernel puts it at this offset.
                const CHECKSUM_OFFSET: i32 = 6;
                set(&socket, libc::IPPROTO_IPV6, libc::IPV6_CHECKSUM, &CHECKSUM_OFFSET)?;
            }
        }
        let socket = Self {
            socket,
            sensor,
            own_paths,
            is_marked,
            encapsulation,
            ring,
            rings,
            headers: Box::new([Headers::EMPTY; BATCH]),
            connected: Instant::now(),
            changes_seen: address_changes.load(Ordering::Relaxed),
            address_changes,
            batches: 0,
            has_shorter_path: false,
        };
        socket.connect()?;
        Ok(socket)
    }

    /// Fixes the source address, as the host's routes have it now, and tells the hooks. Raw sockets have
    /// no ports.
    fn connect(&self) -> Result<()> {
        let sensor = self.sensor;
        let source = self
            .socket
            .connect(&SockAddr::from(SocketAddr::new(sensor.ip(), 0)))
            .and_then(|()| self.socket.local_addr())
            .with_context(|| format!("cannot send to {sensor} (is there a route to it?)"))?;
        let source = source.as_socket().context("a raw socket has no IP address")?;
        self.own_paths.as_ref().map_or(Ok(()), |paths| paths.add(source.ip(), sensor))
    }

    /// What makes the headers of datagrams.
    #[must_use]
    pub fn encapsulation(&self) -> &Encapsulation {
        &self.encapsulation
    }

    /// The same, to make some.
    pub fn encapsulation_mut(&mut self) -> &mut Encapsulation {
        &mut self.encapsulation
    }

    /// Whether datagrams carry [`own::MARK`].
    #[must_use]
    pub fn is_marked(&self) -> bool {
        self.is_marked
    }

    /// The thread's ring, and the number of rings.
    #[must_use]
    pub fn ring(&self) -> (u32, u32) {
        (self.ring, self.rings)
    }

    /// How often the host's addresses have changed.
    #[must_use]
    pub fn address_changes(&self) -> u64 {
        self.address_changes.load(Ordering::Relaxed)
    }

    /// Whether all that was sent has left this host, or its network namespace.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        sockopt::is_drained(&self.socket)
    }

    /// A UDP socket that is connected to the sensor as the host's routes have it now.
    ///
    /// # Errors
    ///
    /// No route to the sensor.
    pub fn connected_probe(&self) -> io::Result<Socket> {
        let probe = Socket::new(Domain::for_address(self.sensor), Type::DGRAM, None)?;
        if self.is_marked {
            probe.set_mark(own::MARK)?;
        }
        probe.connect(&SockAddr::from(self.sensor))?;
        Ok(probe)
    }

    /// The largest packet that the path to the sensor takes, as far as the kernel knows.
    ///
    /// # Errors
    ///
    /// No route to the sensor.
    pub fn path_mtu(&self) -> io::Result<usize> {
        let probe = self.connected_probe()?;
        let (level, name) = match Version::of(self.sensor.ip()) {
            Version::V4 => (libc::IPPROTO_IP, libc::IP_MTU),
            Version::V6 => (libc::IPPROTO_IPV6, libc::IPV6_MTU),
        };
        let mtu: i32 = sockopt::get(&probe, level, name)?;
        usize::try_from(mtu).map_err(io::Error::other)
    }

    /// Lets datagrams that are longer than the path takes be refused, here and on the way, where they would be
    /// fragmented otherwise. The kernel learns from what routers answer.
    ///
    /// # Errors
    ///
    /// None that is known.
    pub fn forbid_fragments(&self) -> io::Result<()> {
        match Version::of(self.sensor.ip()) {
            Version::V4 => set(&self.socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, &libc::IP_PMTUDISC_DO),
            Version::V6 => {
                set(&self.socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, &libc::IPV6_PMTUDISC_DO)
            }
        }
    }

    /// Whether a datagram was refused for its length since [`Self::note_path`].
    #[must_use]
    pub fn has_shorter_path(&self) -> bool {
        self.has_shorter_path
    }

    /// The path's MTU is about to be looked up.
    pub fn note_path(&mut self) {
        self.has_shorter_path = false;
    }

    /// Looks whether the host would send from another address now, at most once a second unless it was
    /// told that addresses changed. Returns whether the socket has another source since.
    fn follow_address(&mut self) -> bool {
        let changes = self.address_changes.load(Ordering::Relaxed);
        if changes == self.changes_seen && self.connected.elapsed() < RECONNECT_EVERY {
            return false;
        }
        self.changes_seen = changes;
        self.connected = Instant::now();
        if !self.has_other_source().unwrap_or(false) {
            return false;
        }
        forget_source(&self.socket);
        match self.connect() {
            Ok(()) => {
                log::info!("this host has another address now: connected to {} again", self.sensor);
                true
            }
            Err(error) => {
                log::debug!("{error:#}");
                false
            }
        }
    }

    /// Whether a new socket would send from another address than this one does.
    fn has_other_source(&self) -> io::Result<bool> {
        let probe = self.connected_probe()?;
        let address =
            |socket: &Socket| socket.local_addr().map(|local| local.as_socket().map(|address| address.ip()));
        Ok(address(&probe)? != address(&self.socket)?)
    }

    /// Looks at reported errors with one batch in [`BATCHES_PER_LOOK`], whichever way the batches go.
    pub fn count_batch(&mut self, counters: &OutputCounters) {
        self.batches += 1;
        if self.batches >= BATCHES_PER_LOOK {
            self.take_reported_errors(counters);
        }
    }

    /// Counts the errors that the network has reported since the last call. They say nothing of the
    /// datagrams that follow, and a raw socket's send calls do not return them (`raw_sendmsg` in
    /// net/ipv4/raw.c): a sensor that refuses costs no frame.
    pub fn take_reported_errors(&mut self, counters: &OutputCounters) {
        self.batches = 0;
        // The queue is bounded by the receive buffer; another thread's errors are reported here too.
        while let Some(report) = self.next_report() {
            self.has_shorter_path |= report.errno == libc::EMSGSIZE;
            let is_ours =
                |(source, destination)| destination == self.sensor.port() && self.sends_from(source);
            if report.errno != 0 && report.ports.is_none_or(is_ours) {
                counters.error(report.errno);
                if report.errno != libc::EMSGSIZE {
                    counters.unreached.add(1);
                }
            }
        }
    }

    fn sends_from(&self, port: u16) -> bool {
        port.checked_sub(flow::SOURCE_PORT_FIRST)
            .is_some_and(|index| flow::ring(u32::from(index), self.rings) == self.ring)
    }

    fn next_report(&self) -> Option<Report> {
        let mut quoted = [0_u8; 4];
        let mut control = [0_u64; 64];
        let mut iovec = libc::iovec { iov_base: quoted.as_mut_ptr().cast(), iov_len: quoted.len() };
        // SAFETY: all-zero is a valid msghdr: null pointers and zero lengths.
        let mut message: libc::msghdr = unsafe { mem::zeroed() };
        message.msg_iov = &raw mut iovec;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = mem::size_of_val(&control);
        let flags = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;
        // SAFETY: the pointers in `message` are to locals that outlive the call, with their lengths.
        let received = unsafe { libc::recvmsg(self.socket.as_raw_fd(), &raw mut message, flags) };
        let received = usize::try_from(received).ok()?;
        // SAFETY: the kernel filled the control buffer of `message`; the macros stay within its length.
        let mut header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
        while !header.is_null() {
            // SAFETY: not null, so a whole header in the control buffer, which is aligned to 8.
            let (level, kind) = unsafe { ((*header).cmsg_level, (*header).cmsg_type) };
            if matches!(
                (level, kind),
                (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)
            ) {
                // SAFETY: a control message of this type holds a sock_extended_err (ip(7)).
                let error: libc::sock_extended_err =
                    unsafe { ptr::read_unaligned(libc::CMSG_DATA(header).cast()) };
                // What this host refused, the call has returned too.
                let is_local = error.ee_origin == libc::SO_EE_ORIGIN_LOCAL;
                return Some(Report {
                    errno: if is_local { 0 } else { error.ee_errno.cast_signed() },
                    ports: (received == quoted.len()).then(|| {
                        let [source, more, destination, last] = quoted;
                        (u16::from_be_bytes([source, more]), u16::from_be_bytes([destination, last]))
                    }),
                });
            }
            // SAFETY: as for the first header.
            header = unsafe { libc::CMSG_NXTHDR(&raw const message, header) };
        }
        Some(Report { errno: 0, ports: None })
    }

    /// Sends what of `messages` the kernel takes in one call.
    fn send_some(&self, messages: &mut [libc::mmsghdr]) -> io::Result<usize> {
        // SAFETY: every message points to iovecs, and these to a header and a frame, which the caller
        // keeps alive; the slice is at most BATCH long.
        let sent = unsafe {
            libc::sendmmsg(self.socket.as_raw_fd(), messages.as_mut_ptr(), messages.len() as libc::c_uint, 0)
        };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }
}

/// An error that the kernel keeps for a socket: what, and from which port to which the datagram was sent.
struct Report {
    errno: i32,
    ports: Option<(u16, u16)>,
}

impl Output for RawSocket {
    fn send(&mut self, frames: &[Frame<'_>], counters: &OutputCounters) -> io::Result<()> {
        if self.address_changes.load(Ordering::Relaxed) != self.changes_seen {
            self.follow_address();
        }
        self.count_batch(counters);
        self.encapsulation.look_at_clock();
        let header_len = self.encapsulation.encap().header_len();
        let mut iovecs = ArrayVec::<Pieces, BATCH>::new();
        for (frame, headers) in frames.iter().zip(self.headers.iter_mut()) {
            *headers = self.encapsulation.headers(frame);
            iovecs.push(pieces([headers, frame.head, frame.bytes]));
        }
        let mut messages = messages(&mut iovecs);

        let mut done = 0;
        let mut tries = 0;
        while done < messages.len() {
            match self.send_some(&mut messages[done..]) {
                Ok(sent) => {
                    frames[done..done + sent]
                        .iter()
                        .for_each(|frame| counters.datagram_sent(frame, header_len));
                    done += sent;
                    tries = 0;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    tries += 1;
                    let errno = error.raw_os_error().unwrap_or(0);
                    let is_full = matches!(errno, libc::ENOBUFS | libc::EAGAIN | libc::ENOMEM);
                    if is_full && tries < TRIES {
                        thread::sleep(PAUSE);
                        continue;
                    }
                    if is_about_source(errno) && self.follow_address() {
                        continue;
                    }
                    self.has_shorter_path |= errno == libc::EMSGSIZE;
                    counters.error(errno);
                    counters.wire_frame_failed(&frames[done]);
                    done += 1;
                    tries = 0;
                }
            }
        }
        Ok(())
    }

    fn flush(&mut self, counters: &OutputCounters) -> io::Result<()> {
        self.take_reported_errors(counters);
        Ok(())
    }
}

/// Whether an error may mean that the source address is gone, or that a socket has none after a
/// connection that failed.
fn is_about_source(errno: i32) -> bool {
    matches!(errno, libc::EINVAL | libc::EADDRNOTAVAIL | libc::ENETUNREACH | libc::EDESTADDRREQ)
}

/// A raw socket gets a copy of every UDP datagram that the sensor sends to this host; none is wanted.
fn refuse_everything(socket: &Socket) -> io::Result<()> {
    const RETURN: u16 = 0x06;
    let mut program = [libc::sock_filter { code: RETURN, jt: 0, jf: 0, k: 0 }];
    let filter = libc::sock_fprog { len: 1, filter: program.as_mut_ptr() };
    // The kernel copies the program within the call.
    set(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &filter)
}

/// Dissolves the association: a socket that is merely connected again keeps its source address
/// (`__ip4_datagram_connect` in net/ipv4/datagram.c).
fn forget_source(socket: &Socket) {
    // SAFETY: all-zero is a valid sockaddr of family AF_UNSPEC (0); its length is given. Where the call
    // fails, so does the connect that follows, and that is told.
    unsafe {
        let nowhere: libc::sockaddr = mem::zeroed();
        let length = mem::size_of_val(&nowhere) as libc::socklen_t;
        libc::connect(socket.as_raw_fd(), &raw const nowhere, length);
    }
}

//! Sends datagrams through the host's IP stack, so that routing, policy rules, NAT, tunnels and fragmentation are the
//! host's own: by a raw socket where the agent may open one, else by UDP sockets.

use std::{
    io, mem,
    net::{IpAddr, SocketAddr},
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
use mirror_common::{flow, own, udp};
use socket2::{Domain, SockAddr, Socket, Type};

use super::{
    Output, PAUSE, TRIES,
    messages::{self, Pieces, messages, pieces},
    raw_socket, sockopt,
    sockopt::set,
    udp_sockets,
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
pub struct Stack {
    sockets: Sockets,
    /// Asks what the stack would do: which source address, how long a packet.
    probe: Socket,
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

/// What datagrams are handed to the stack by.
enum Sockets {
    /// One for all source ports: the agent writes the UDP header.
    Raw(Socket),
    /// One for each source port, and what is looked at for errors of any of them.
    Udp(Vec<Socket>, Vec<libc::pollfd>),
}

impl Sockets {
    fn all(&self) -> &[Socket] {
        match self {
            Self::Raw(socket) => std::slice::from_ref(socket),
            Self::Udp(sockets, _) => sockets,
        }
    }
}

impl Sockets {
    /// Whether one of many has an error to tell. Of one alone that is seen when it is asked.
    fn may_have_errors(&mut self) -> bool {
        let Self::Udp(_, looks) = self else { return true };
        // SAFETY: the pollfds are as many as is said, and the call does not wait.
        unsafe { libc::poll(looks.as_mut_ptr(), looks.len() as libc::nfds_t, 0) != 0 }
    }
}

/// Which sockets to open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A raw socket, which takes CAP_NET_RAW.
    Raw,
    /// As many UDP sockets.
    Udp(u32),
}

/// Batches between two looks at the errors that were reported, under load.
const BATCHES_PER_LOOK: u32 = 64;

/// Calls of one UDP socket in a row that may end with what the network reported, before an error is one of its own.
const REPORTS_MAX: u32 = 3;

/// Shortest time between two looks for another source address.
const RECONNECT_EVERY: Duration = Duration::from_secs(1);

impl Stack {
    /// Opens a way to `sensor` for the thread that serves `ring` of `rings`. Datagrams get their headers from
    /// `encapsulation`. `own_paths` is for hooks that
    /// must know the datagrams. `address_changes` counts how often the host's addresses have changed.
    ///
    /// # Errors
    ///
    /// No right to open raw sockets, none to mark datagrams where hooks must know them, no UDP port that is free, or
    /// no route to the sensor.
    pub fn open(
        sensor: SocketAddr,
        kind: Kind,
        encapsulation: Encapsulation,
        ring: u32,
        rings: u32,
        own_paths: Option<OwnPaths>,
        address_changes: Arc<AtomicU64>,
    ) -> Result<Self> {
        let sockets = match kind {
            Kind::Raw => Sockets::Raw(raw_socket::open(sensor)?),
            Kind::Udp(count) => {
                let sockets = udp_sockets::open(sensor, count, ring, rings)?;
                // Errors are always told.
                let look = |socket: &Socket| libc::pollfd { fd: socket.as_raw_fd(), events: 0, revents: 0 };
                let looks = sockets.iter().map(look).collect();
                Sockets::Udp(sockets, looks)
            }
        };
        let probe = Socket::new(Domain::for_address(sensor), Type::DGRAM, None)
            .context("cannot open a UDP socket")?;
        let mut is_marked = true;
        for socket in sockets.all().iter().chain([&probe]) {
            match socket.set_mark(own::MARK) {
                Ok(()) => {}
                // Needs CAP_NET_ADMIN, and is of use to hooks only.
                Err(error) if error.raw_os_error() == Some(libc::EPERM) && own_paths.is_none() => {
                    is_marked = false
                }
                Err(error) => return Err(error).context("cannot mark the agent's own datagrams"),
            }
        }
        for socket in sockets.all() {
            refuse_everything(socket)?;
            sockopt::widen_send_buffer(socket)?;
            let (level, hears_errors) = match sensor {
                // Tells of full queues, and of ICMP errors with the datagram that they are about.
                SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_RECVERR),
                SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_RECVERR),
            };
            set(socket, level, hears_errors, &1_i32)?;
        }
        let stack = Self {
            sockets,
            probe,
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
        // What does not fit the path is fragmented rather than refused.
        stack.let_fragments(true)?;
        stack.connect()?;
        Ok(stack)
    }

    /// Fixes the source address, as the host's routes have it now, and tells the hooks.
    fn connect(&self) -> Result<()> {
        let sensor = self.sensor;
        let to = match self.sockets {
            // Such have no ports.
            Sockets::Raw(_) => SocketAddr::new(sensor.ip(), 0),
            Sockets::Udp(..) => sensor,
        };
        let cannot = || format!("cannot send to {sensor} (is there a route to it?)");
        for socket in self.sockets.all() {
            socket.connect(&SockAddr::from(to)).with_context(cannot)?;
        }
        let source = self.local_address().with_context(cannot)?.context("a socket has no IP address")?;
        self.own_paths.as_ref().map_or(Ok(()), |paths| paths.add(source, sensor))
    }

    /// What datagrams are sent from.
    fn local_address(&self) -> io::Result<Option<IpAddr>> {
        self.sockets.all().first().map_or(Ok(None), address_of)
    }

    /// Whether it is open to send from any port: only then can a datagram be seen as it leaves, or sent past the stack.
    #[must_use]
    pub fn is_raw(&self) -> bool {
        matches!(self.sockets, Sockets::Raw(_))
    }

    /// The headers of a frame's datagram, as it is sent.
    pub fn headers(&mut self, frame: &Frame<'_>) -> Headers {
        let mut headers = self.encapsulation.headers(frame);
        if let Sockets::Udp(sockets, _) = &self.sockets
            && let Some(port) = sockets.get(self.lane(frame, sockets.len())).and_then(port_of)
        {
            headers.set_source_port(port);
        }
        headers
    }

    /// The number of the socket that a frame's datagram leaves by, of `count`.
    fn lane(&self, frame: &Frame<'_>, count: usize) -> usize {
        udp_sockets::lane(frame.header.flow_hash, self.rings, count)
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
        self.sockets.all().iter().all(sockopt::is_drained)
    }

    /// The probe, connected to the sensor as the host's routes have it now. One for all times: a mark takes a
    /// capability, which a sending thread has no longer.
    fn connected_probe(&self) -> io::Result<&Socket> {
        forget_source(&self.probe);
        self.probe.connect(&SockAddr::from(self.sensor))?;
        Ok(&self.probe)
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
        let mtu: i32 = sockopt::get(probe, level, name)?;
        usize::try_from(mtu).map_err(io::Error::other)
    }

    /// Lets datagrams that are longer than the path takes be refused, here and on the way, where they would be
    /// fragmented otherwise. The kernel learns from what routers answer.
    ///
    /// # Errors
    ///
    /// None that is known.
    pub fn forbid_fragments(&self) -> io::Result<()> {
        self.let_fragments(false)
    }

    fn let_fragments(&self, may_be: bool) -> io::Result<()> {
        let (level, name, value) = match (Version::of(self.sensor.ip()), may_be) {
            (Version::V4, true) => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT),
            (Version::V4, false) => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO),
            (Version::V6, true) => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DONT),
            (Version::V6, false) => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DO),
        };
        self.sockets.all().iter().try_for_each(|socket| set(socket, level, name, &value))
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
        self.sockets.all().iter().for_each(forget_source);
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
        Ok(address_of(self.connected_probe()?)? != self.local_address()?)
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
        if !self.sockets.may_have_errors() {
            return;
        }
        let is_raw = self.is_raw();
        let mut has_shorter_path = false;
        let is_ours = |(source, destination)| destination == self.sensor.port() && self.sends_from(source);
        for socket in self.sockets.all() {
            // The queue is bounded by the receive buffer; another thread's errors are reported to a raw socket too.
            while let Some(report) = next_report(socket, is_raw) {
                has_shorter_path |= report.errno == libc::EMSGSIZE;
                if report.errno != 0 && report.ports.is_none_or(is_ours) {
                    counters.error(report.errno);
                    if report.errno != libc::EMSGSIZE {
                        counters.unreached.add(1);
                    }
                }
            }
        }
        self.has_shorter_path |= has_shorter_path;
    }

    fn sends_from(&self, port: u16) -> bool {
        port.checked_sub(flow::SOURCE_PORT_FIRST)
            .is_some_and(|index| flow::ring(u32::from(index), self.rings) == self.ring)
    }

    fn send_raw(&mut self, frames: &[Frame<'_>], counters: &OutputCounters) {
        let header_len = self.encapsulation.encap().header_len();
        let mut iovecs = ArrayVec::<Pieces, BATCH>::new();
        for (frame, headers) in frames.iter().zip(self.headers.iter_mut()) {
            *headers = self.encapsulation.headers(frame);
            iovecs.push(pieces([headers, frame.head, frame.bytes]));
        }
        let mut messages = messages(&mut iovecs);
        let mut next = 0;
        while let Some(&frame) = frames.get(next) {
            let (sent, refusal) = self.push_out(0, &mut messages[next..], counters);
            frames[next..next + sent].iter().for_each(|frame| counters.datagram_sent(frame, header_len));
            next += sent;
            if let Some(errno) = refusal {
                let refused = frames.get(next).unwrap_or(&frame);
                counters.error(errno);
                counters.wire_frame_failed(refused);
                next += 1;
            }
        }
    }

    /// A batch goes out port by port, each flow in order, and is counted in its own order: the parts of a super-frame
    /// are one frame to the ledger.
    fn send_udp(&mut self, frames: &[Frame<'_>], counters: &OutputCounters) {
        let header_len = self.encapsulation.encap().header_len();
        let count = self.sockets.all().len();
        let lane = |frame: usize| self.lane(&frames[frame], count);
        let mut order: ArrayVec<usize, BATCH> = (0..frames.len().min(BATCH)).collect();
        // Equal numbers: none, so that the order of a lane's own is kept.
        order.sort_unstable_by_key(|&frame| (lane(frame), frame));
        for (frame, headers) in frames.iter().zip(self.headers.iter_mut()) {
            *headers = self.encapsulation.headers(frame);
        }
        let mut iovecs = ArrayVec::<Pieces, BATCH>::new();
        for &index in &order {
            let frame = &frames[index];
            // The stack writes the UDP header.
            let tunnel = self.headers[index].get(udp::HEADER_LEN..).unwrap_or_default();
            iovecs.push(pieces([tunnel, frame.head, frame.bytes]));
        }
        let mut messages = messages(&mut iovecs);
        // 0 is that it was sent.
        let mut errors = [0_i32; BATCH];
        let mut done = 0;
        while let Some(&first) = order.get(done) {
            let socket = self.lane(&frames[first], count);
            let same =
                order[done..].iter().take_while(|&&frame| self.lane(&frames[frame], count) == socket).count();
            let (sent, refusal) = self.push_out(socket, &mut messages[done..done + same], counters);
            done += sent;
            if let Some((errno, &frame)) = refusal.zip(order.get(done)) {
                errors[frame] = errno;
                done += 1;
            }
        }
        for (frame, errno) in frames.iter().zip(errors) {
            if errno == 0 {
                counters.datagram_sent(frame, header_len);
            } else {
                counters.error(errno);
                counters.wire_frame_failed(frame);
            }
        }
    }

    /// Sends `messages` by the socket with number `socket`, until one is refused for good. Returns how many were sent,
    /// and the errno of the one behind them, if there is one.
    fn push_out(
        &mut self,
        socket: usize,
        messages: &mut [libc::mmsghdr],
        counters: &OutputCounters,
    ) -> (usize, Option<i32>) {
        let mut done = 0;
        let mut tries = 0;
        let mut reports = 0;
        while done < messages.len() {
            match self.send_some(socket, &mut messages[done..]) {
                Ok(sent) => {
                    done += sent;
                    (tries, reports) = (0, 0);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let errno = error.raw_os_error().unwrap_or(libc::EIO);
                    tries += 1;
                    let is_full = matches!(errno, libc::ENOBUFS | libc::EAGAIN | libc::ENOMEM);
                    if is_full && tries < TRIES {
                        thread::sleep(PAUSE);
                        continue;
                    }
                    // A UDP socket's next call returns what the network reported, once, and sends nothing.
                    if !self.is_raw() && !is_full && reports < REPORTS_MAX {
                        reports += 1;
                        self.take_reported_errors(counters);
                        continue;
                    }
                    if is_about_source(errno) && self.follow_address() {
                        continue;
                    }
                    self.has_shorter_path |= errno == libc::EMSGSIZE;
                    return (done, Some(errno));
                }
            }
        }
        (done, None)
    }

    /// Sends what of `messages` the kernel takes in one call.
    fn send_some(&self, socket: usize, messages: &mut [libc::mmsghdr]) -> io::Result<usize> {
        let Some(socket) = self.sockets.all().get(socket) else {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        };
        // SAFETY: every message points to iovecs, and these to a header and a frame, which the caller
        // keeps alive; the slice is at most BATCH long.
        unsafe { messages::send(socket, messages, 0) }
    }
}

/// An error that the kernel keeps for a socket: what, and from which port to which the datagram was sent.
struct Report {
    errno: i32,
    ports: Option<(u16, u16)>,
}

/// The next error that is kept for `socket`.
fn next_report(socket: &Socket, is_raw: bool) -> Option<Report> {
    let mut quoted = [0_u8; 4];
    let mut control = [0_u64; 64];
    let mut iovec = libc::iovec { iov_base: quoted.as_mut_ptr().cast(), iov_len: quoted.len() };
    // SAFETY: all-zero is a valid msghdr: null pointers and zero lengths.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &raw mut iovec;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = mem::size_of_val(&control) as _;
    let flags = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;
    // SAFETY: the pointers in `message` are to locals that outlive the call, with their lengths.
    let received = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
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
                // A raw socket is shown the datagram from its UDP header on, another what follows that.
                ports: (is_raw && received == quoted.len()).then(|| {
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

impl Output for Stack {
    fn send(&mut self, frames: &[Frame<'_>], counters: &OutputCounters) -> io::Result<()> {
        if self.address_changes.load(Ordering::Relaxed) != self.changes_seen {
            self.follow_address();
        }
        self.count_batch(counters);
        self.encapsulation.look_at_clock();
        match &self.sockets {
            Sockets::Raw(_) => self.send_raw(frames, counters),
            Sockets::Udp(..) => self.send_udp(frames, counters),
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

fn address_of(socket: &Socket) -> io::Result<Option<IpAddr>> {
    Ok(socket.local_addr()?.as_socket().map(|address| address.ip()))
}

fn port_of(socket: &Socket) -> Option<u16> {
    Some(socket.local_addr().ok()?.as_socket()?.port())
}

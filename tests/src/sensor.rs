//! The receiving end: a UDP socket that opens VXLAN or GENEVE, written apart from the agent's own sink.

use std::{
    io,
    mem::zeroed,
    net::{Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::AsRawFd as _,
    ptr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::{
    agent,
    geneve::{self, Told},
    host::Host,
    vxlan,
};

/// Datagrams taken from the kernel at once.
const BATCH: usize = 64;
/// The largest UDP payload.
const LARGEST: usize = 65_536;
/// Bytes of kernel memory for datagrams that wait: above a second of the fastest agent's.
const BUFFER: i32 = 1 << 29;
/// So long a child that another test is starting may have the socket of a sensor that ended, until it is another program.
const INHERITED: Duration = Duration::from_secs(2);
/// So long with nothing new, and what was on its way has arrived.
const QUIET: Duration = Duration::from_millis(150);

/// A datagram as it arrived.
#[derive(Debug, Clone, Copy)]
pub struct Datagram<'a> {
    pub source: SocketAddr,
    pub vni: u32,
    /// What GENEVE tells of the frame.
    pub told: Option<Told>,
    /// The frame inside.
    pub frame: &'a [u8],
    /// When the kernel got it: nanoseconds since 1970.
    pub time: u64,
}

/// What arrived in all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    pub datagrams: u64,
    /// UDP payload.
    pub bytes: u64,
    /// Not VXLAN, or not GENEVE.
    pub malformed: u64,
    /// Thrown away by the kernel because this program was too slow: nothing can be said then.
    pub kernel_drops: u64,
}

/// A running sensor with something, `S`, that looks at each datagram.
#[derive(Debug)]
pub struct Sensor<S> {
    stop: Arc<AtomicBool>,
    falls_over: Arc<AtomicBool>,
    datagrams: Arc<AtomicU64>,
    thread: JoinHandle<(S, Totals)>,
}

impl<S: Send + 'static> Sensor<S> {
    /// Listens on port 4789, or that of GENEVE where the tests of a path are run for it, of every address of `host`, IPv4
    /// and IPv6, and hands every datagram to `look`.
    ///
    /// # Panics
    /// Where the port is taken.
    #[must_use]
    pub fn start(host: &Host, state: S, look: impl FnMut(&mut S, Datagram<'_>) + Send + 'static) -> Self {
        Self::start_on(host, agent::sensor_port(), state, look)
    }

    /// As [`Sensor::start`], on another port; GENEVE is what comes to GENEVE's.
    ///
    /// # Panics
    /// Where the port is taken.
    #[must_use]
    pub fn start_on(
        host: &Host,
        port: u16,
        mut state: S,
        mut look: impl FnMut(&mut S, Datagram<'_>) + Send + 'static,
    ) -> Self {
        let socket = host.within(move || open(port));
        let (stop, datagrams) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (stopped, counter) = (stop.clone(), datagrams.clone());
        let falls_over = Arc::<AtomicBool>::default();
        let fell_over = falls_over.clone();
        let thread = host.thread("sensor", move || {
            let mut receiver = Receiver::new(&socket);
            let mut totals = Totals::default();
            loop {
                let asked_to_stop = stopped.load(Ordering::Relaxed);
                let received = receiver.receive();
                if received == 0 && asked_to_stop || fell_over.load(Ordering::Relaxed) {
                    break;
                }
                for slot in 0..received {
                    let (source, payload, time) = receiver.datagram(slot);
                    totals.datagrams += 1;
                    totals.bytes += payload.len() as u64;
                    let opened = match port {
                        geneve::PORT | geneve::OTHER_PORT => geneve::open(payload),
                        _ => vxlan::open(payload).map(|(vni, frame)| (vni, None, frame)),
                    };
                    match opened {
                        Some((vni, told, frame)) => {
                            look(&mut state, Datagram { source, vni, told, frame, time });
                        }
                        None => totals.malformed += 1,
                    }
                }
                counter.store(totals.datagrams, Ordering::Release);
            }
            totals.kernel_drops = kernel_drops(&socket);
            (state, totals)
        });
        Self { stop, falls_over, datagrams, thread }
    }

    /// How many datagrams have been looked at.
    #[must_use]
    pub fn datagrams(&self) -> u64 {
        self.datagrams.load(Ordering::Acquire)
    }

    /// Waits until so many datagrams have been looked at.
    ///
    /// # Panics
    /// Where they do not come in `time`.
    pub fn wait_for(&self, datagrams: u64, time: Duration) {
        let deadline = Instant::now() + time;
        while self.datagrams() < datagrams {
            assert!(
                Instant::now() < deadline,
                "{} of {datagrams} datagrams at the sensor in {time:?}",
                self.datagrams()
            );
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Closes its port at once, whatever comes, as a program does that is killed.
    ///
    /// # Panics
    /// As [`Sensor::finish`].
    pub fn fall_over(self) {
        self.falls_over.store(true, Ordering::Relaxed);
        let _ = self.finish();
    }

    /// Waits until nothing comes any more, and gives what was looked at.
    ///
    /// # Panics
    /// Where looking panicked, or the kernel threw datagrams away before they could be looked at.
    #[must_use]
    pub fn finish(self) -> (S, Totals) {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.join() {
            Ok((state, totals)) => {
                assert_eq!(totals.kernel_drops, 0, "the test's own sensor was too slow: {totals:?}");
                (state, totals)
            }
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

impl Sensor<Vec<Vec<u8>>> {
    /// Keeps every frame.
    ///
    /// # Panics
    /// As [`Sensor::start`].
    #[must_use]
    pub fn keeping(host: &Host) -> Self {
        Self::start(host, Vec::new(), |frames, datagram| frames.push(datagram.frame.to_vec()))
    }
}

fn open(port: u16) -> UdpSocket {
    let deadline = Instant::now() + INHERITED;
    let socket = loop {
        match UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(10));
            }
            result => break result.expect("cannot bind the sensor"),
        }
    };
    socket.set_read_timeout(Some(QUIET)).unwrap();
    set(&socket, libc::SO_RCVBUFFORCE, BUFFER);
    set(&socket, libc::SO_TIMESTAMPNS, 1);
    socket
}

fn set(socket: &UdpSocket, option: i32, value: i32) {
    // SAFETY: `value` is an int of the size that is said, which is what both options take.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const value).cast(),
            size_of::<i32>() as libc::socklen_t,
        )
    };
    assert_eq!(result, 0, "socket option {option}: {}", io::Error::last_os_error());
}

/// What the socket dropped because its buffer was full. `SO_MEMINFO` tells it at any time;
/// `SO_RXQ_OVFL` only with a later datagram, which may never come.
fn kernel_drops(socket: &UdpSocket) -> u64 {
    const SO_MEMINFO: i32 = 55;
    const DROPS: usize = 8; // linux/sock_diag.h, SK_MEMINFO_DROPS
    let mut values = [0u32; DROPS + 1];
    let mut len = size_of_val(&values) as libc::socklen_t;
    // SAFETY: `values` takes the `len` bytes that the kernel may write.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_MEMINFO,
            values.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    assert_eq!(result, 0, "SO_MEMINFO: {}", io::Error::last_os_error());
    u64::from(values[DROPS])
}

/// Room for a batch of datagrams, in the shape that recvmmsg(2) wants. The messages point into the other
/// fields, which are on the heap and neither grow nor move.
struct Receiver<'a> {
    socket: &'a UdpSocket,
    payloads: Vec<u8>,
    sources: Vec<libc::sockaddr_in6>,
    controls: Vec<[u64; 8]>,
    pieces: Vec<libc::iovec>,
    messages: Vec<libc::mmsghdr>,
}

impl<'a> Receiver<'a> {
    fn new(socket: &'a UdpSocket) -> Self {
        let mut receiver = Self {
            socket,
            payloads: vec![0; BATCH * LARGEST],
            // SAFETY: all fields of sockaddr_in6 are integers, for which zero is a value.
            sources: vec![unsafe { zeroed() }; BATCH],
            controls: vec![[0; 8]; BATCH],
            pieces: Vec::with_capacity(BATCH),
            messages: Vec::with_capacity(BATCH),
        };
        for payload in receiver.payloads.chunks_exact_mut(LARGEST) {
            receiver.pieces.push(libc::iovec { iov_base: payload.as_mut_ptr().cast(), iov_len: LARGEST });
        }
        for slot in 0..BATCH {
            // SAFETY: zero is a value for every field: null pointers and lengths of 0.
            let mut message: libc::mmsghdr = unsafe { zeroed() };
            message.msg_hdr.msg_iov = &raw mut receiver.pieces[slot];
            message.msg_hdr.msg_iovlen = 1;
            message.msg_hdr.msg_name = (&raw mut receiver.sources[slot]).cast();
            message.msg_hdr.msg_control = receiver.controls[slot].as_mut_ptr().cast();
            receiver.messages.push(message);
        }
        receiver
    }

    /// Waits for datagrams, at most [`QUIET`]; gives how many came.
    fn receive(&mut self) -> usize {
        for message in &mut self.messages {
            message.msg_hdr.msg_namelen = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
            message.msg_hdr.msg_controllen = size_of::<[u64; 8]>();
        }
        // SAFETY: every message points to a payload, a source and a control buffer of the lengths that it
        // says, all owned by `self` and untouched until the call returns.
        let received = unsafe {
            libc::recvmmsg(
                self.socket.as_raw_fd(),
                self.messages.as_mut_ptr(),
                BATCH as u32,
                libc::MSG_WAITFORONE,
                ptr::null_mut(),
            )
        };
        usize::try_from(received).unwrap_or_else(|_| match io::Error::last_os_error() {
            error if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => 0,
            error => panic!("cannot receive: {error}"),
        })
    }

    fn datagram(&self, slot: usize) -> (SocketAddr, &[u8], u64) {
        let address = self.sources[slot];
        // An IPv4 sender has an address of the form ::ffff:10.20.0.1 on such a socket.
        let ip = Ipv6Addr::from(address.sin6_addr.s6_addr).to_canonical();
        let source = SocketAddr::new(ip, u16::from_be(address.sin6_port));
        let len = self.messages[slot].msg_len as usize;
        // One control message: struct cmsghdr in two words, then seconds and nanoseconds.
        let [_, _, seconds, nanoseconds, ..] = self.controls[slot];
        (source, &self.payloads[slot * LARGEST..][..len], seconds * 1_000_000_000 + nanoseconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{lab::Lab, lock};

    #[test]
    fn every_datagram_is_seen_with_its_source_and_its_time() {
        let _turn = lock::shared();
        let lab = Lab::new();
        let before = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let sensor = Sensor::start(&lab.sensor, Vec::new(), |seen: &mut Vec<_>, datagram| {
            seen.push((datagram.source.to_string(), datagram.vni, datagram.frame.to_vec(), datagram.time));
        });
        let mut payloads: Vec<_> = (0..300u16)
            .map(|number| {
                (50_000 + number % 7, vxlan::wrap(0xff_0000 + u32::from(number), &number.to_be_bytes()))
            })
            .collect();
        payloads.push((50_000, vec![0; 20]));
        payloads.push((50_000, vec![8; 7]));
        vxlan::send(&lab.router, "10.20.0.2:4789", payloads);
        sensor.wait_for(302, Duration::from_secs(5));
        let (seen, totals) = sensor.finish();
        assert_eq!((totals.datagrams, totals.malformed), (302, 2));
        assert_eq!(totals.bytes, 300 * 10 + 27);
        assert_eq!(seen.len(), 300);
        for (number, (source, vni, frame, time)) in (0u16..).zip(seen) {
            assert_eq!(source, format!("10.20.0.1:{}", 50_000 + number % 7));
            assert_eq!(vni, 0xff_0000 + u32::from(number));
            assert_eq!(frame, number.to_be_bytes());
            let late = Duration::from_nanos(time).checked_sub(before).expect("before it was sent");
            assert!(late < Duration::from_secs(5), "{late:?} after it was sent");
        }
    }

    #[test]
    fn datagrams_that_the_kernel_dropped_are_told() {
        let _turn = lock::shared();
        let lab = Lab::new();
        let socket = lab.sensor.within(|| {
            let socket = open(4789);
            set(&socket, libc::SO_RCVBUFFORCE, 10_000);
            socket
        });
        vxlan::send(&lab.router, "10.20.0.2:4789", vec![(50_000, vec![8; 500]); 200]);
        let mut kept = 0;
        while socket.recv(&mut [0; 1000]).is_ok() {
            kept += 1;
        }
        assert!(kept < 200, "the buffer was large enough for all");
        assert_eq!(kept + kernel_drops(&socket), 200);
    }
}

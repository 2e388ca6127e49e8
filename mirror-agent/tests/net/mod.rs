//! Two hosts, a sensor on one of them, and frames that say which they are.
#![allow(dead_code, reason = "not every test uses everything")]

use std::{
    fs::File,
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd as _,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use mirror_agent::{
    cli::{Oversize, Transmit},
    config::Delivery,
    encap::encapsulation::Encapsulation,
    ledger::OutputCounters,
    output::{
        Output as _,
        sensor::{SensorOutput, Way},
        stack::{Kind, Stack},
    },
    source::{BATCH, Frame},
};
use mirror_common::{flow, record::RecordHeader, vxlan};
use socket2::{Domain, SockAddr, Socket, Type};

pub const SENSOR_V4: &str = "10.20.0.2:4789";
pub const SENSOR_V6: &str = "[fd20::2]:4789";
pub const VNI: u32 = 4242;

/// Long enough for a slow machine.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Two hosts with a link between their interfaces `eth0`, removed when dropped.
pub struct Net {
    pub near: String,
    pub far: String,
}

impl Net {
    /// `None` where this is not root.
    pub fn new() -> Option<Self> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        // SAFETY: the call has no preconditions.
        if unsafe { libc::geteuid() } != 0 {
            eprintln!("skipped: network namespaces need root");
            return None;
        }
        let name =
            |role| format!("mt-{}-pt{}-{role}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
        let net = Self { near: name("near"), far: name("far") };
        for host in [&net.near, &net.far] {
            ip(&format!("netns add {host}"));
            ip(&format!("-n {host} link set lo up"));
            for key in ["accept_dad=0", "dad_transmits=0", "router_solicitations=0"] {
                run(&format!("ip netns exec {host} sysctl -qw net.ipv6.conf.default.{key}"));
            }
        }
        ip(&format!("link add eth0 netns {} type veth peer name eth0 netns {}", net.near, net.far));
        for (host, number) in [(&net.near, 1), (&net.far, 2)] {
            ip(&format!("-n {host} link set eth0 address 02:00:00:00:20:0{number}"));
            ip(&format!("-n {host} address add 10.20.0.{number}/24 dev eth0"));
            ip(&format!("-n {host} address add fd20::{number}/64 dev eth0"));
            ip(&format!("-n {host} link set eth0 up"));
        }
        net.wait_until_up();
        Some(net)
    }

    /// The kernel drops what is sent before it has noticed that a new link is there, up to a second later.
    pub fn wait_until_up(&self) {
        let started = Instant::now();
        for host in [&self.near, &self.far] {
            while !run(&format!("ip -n {host} -o link show eth0")).contains("state UP") {
                assert!(started.elapsed() < PATIENCE, "the link does not come up");
                thread::sleep(Duration::from_millis(10));
            }
        }
        thread::sleep(Duration::from_millis(50));
    }

    /// `ip` on the sending host.
    pub fn near(&self, line: &str) {
        ip(&format!("-n {} {line}", self.near));
    }

    /// `ip` on the sensor's host.
    pub fn far(&self, line: &str) {
        ip(&format!("-n {} {line}", self.far));
    }

    /// A UDP socket on the sensor's host.
    pub fn sensor(&self, address: &str) -> Sensor {
        let address: SocketAddr = address.parse().unwrap();
        let socket = within(&self.far, move || {
            let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None).unwrap();
            let size: i32 = 256 << 20;
            // SAFETY: the option takes an int.
            let result = unsafe {
                libc::setsockopt(
                    socket.as_raw_fd(),
                    libc::SOL_SOCKET,
                    libc::SO_RCVBUFFORCE,
                    (&raw const size).cast(),
                    4,
                )
            };
            assert_eq!(result, 0, "receive buffer");
            socket.bind(&SockAddr::from(address)).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
            socket
        });
        Sensor(socket.into())
    }

    /// Runs `work` on the sending host.
    pub fn send<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        within(&self.near, work)
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for host in [&self.near, &self.far] {
            let _ = Command::new("ip").args(["netns", "del", host]).output();
        }
    }
}

pub struct Sensor(pub std::net::UdpSocket);

impl Sensor {
    /// The address that the next datagram comes from.
    pub fn next_source(&self) -> Option<IpAddr> {
        self.0.recv_from(&mut [0; 8]).ok().map(|(_, from)| from.ip())
    }

    /// The next frame and its source port, or `None` where none comes for half a second.
    pub fn next(&self) -> Option<(u16, Vec<u8>)> {
        let mut buffer = vec![0; 65_536];
        let (length, from) = self.0.recv_from(&mut buffer).ok()?;
        let (vni, frame) = vxlan::decapsulate(&buffer[..length]).unwrap();
        assert_eq!(vni, VNI);
        Some((from.port(), frame.to_vec()))
    }

    pub fn all(&self) -> Vec<(u16, Vec<u8>)> {
        std::iter::from_fn(|| self.next()).collect()
    }
}

pub fn run(line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn ip(line: &str) {
    run(&format!("ip {line}"));
}

pub fn within<T: Send + 'static>(host: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let file = File::open(format!("/run/netns/{host}")).unwrap();
    let thread = thread::spawn(move || {
        // SAFETY: `file` is open, and the call touches no memory.
        let result = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
        assert_eq!(result, 0, "cannot enter a network namespace");
        work()
    });
    match thread.join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// A frame that says which one it is.
pub struct Sample {
    pub header: RecordHeader,
    pub bytes: Vec<u8>,
}

impl Sample {
    pub fn new(number: u32, length: usize) -> Self {
        let mut bytes: Vec<u8> = (0..length).map(|index| (index as u32 * 31 + number) as u8).collect();
        bytes[..4].copy_from_slice(&number.to_be_bytes());
        let header = RecordHeader {
            time_ns: 0,
            ifindex: 1,
            flow_hash: (number % 23).wrapping_mul(0x9e37_79b9),
            captured_len: length as u32,
            original_len: length as u32,
            direction: 0,
            segmentation: 0,
            gso_size: 0,
            checksum: 0,
        };
        Self { header, bytes }
    }

    pub fn expected(&self) -> (u16, Vec<u8>) {
        (flow::source_port(self.header.flow_hash), self.bytes.clone())
    }

    pub fn frame(&self) -> Frame<'_> {
        Frame::whole(&self.header, &self.bytes)
    }
}

pub fn open(sensor: &str, transmit: Transmit, thread: u32, threads: u32) -> SensorOutput {
    open_for(Way::Xdp, sensor, transmit, thread, threads)
}

/// An output that sends by a program in the kernel only where that is the `way`.
pub fn open_for(way: Way, sensor: &str, transmit: Transmit, thread: u32, threads: u32) -> SensorOutput {
    let sensor: SocketAddr = sensor.parse().unwrap();
    let changes = Arc::<AtomicU64>::default();
    let raw = Stack::open(
        sensor,
        Kind::Raw,
        Encapsulation::vxlan(sensor.port(), VNI),
        thread,
        threads,
        None,
        changes,
    )
    .unwrap();
    let delivery = Delivery { transmit, oversize: Oversize::Fragment };
    let output = SensorOutput::open(raw, sensor, delivery, None).unwrap();
    if way == Way::Program { output } else { output.without_program() }
}

pub fn send(output: &mut SensorOutput, samples: &[Sample], counters: &OutputCounters) {
    for batch in samples.chunks(BATCH) {
        let frames: Vec<Frame<'_>> = batch.iter().map(Sample::frame).collect();
        output.send(&frames, counters).unwrap();
    }
}

/// Sends small frames, a few milliseconds apart, until they go `way`. Returns them.
pub fn until(output: &mut SensorOutput, way: Way, first: u32, counters: &OutputCounters) -> Vec<Sample> {
    let started = Instant::now();
    let mut sent = Vec::new();
    while output.way() != way {
        assert!(started.elapsed() < PATIENCE, "still not {way:?} but {:?}", output.way());
        let samples = [Sample::new(first + sent.len() as u32, 60)];
        send(output, &samples, counters);
        sent.extend(samples);
        thread::sleep(Duration::from_millis(2));
    }
    sent
}

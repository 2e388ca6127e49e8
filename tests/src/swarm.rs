//! Many veth pairs that come and go on one host, as those of containers do, and a frame for each that says which it
//! crossed.
//!
//! Both ends are on the same host: `veth7` is to be mirrored, and what is sent out of `p7` comes in there.

use std::{
    ffi::CString,
    fs,
    io::Write as _,
    ops::Range,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crate::{host::Host, packet_socket::PacketSocket, scratch::Scratch, sensor::Datagram};

/// What arrived of each pair.
#[derive(Debug, Clone)]
pub struct Arrivals(Arc<Vec<Arrival>>);

#[derive(Debug, Default)]
struct Arrival {
    /// When the first frame came: nanoseconds since 1970; 0 before.
    first: AtomicU64,
    frames: AtomicU64,
}

impl Arrivals {
    /// Of `pairs` pairs.
    #[must_use]
    pub fn of(pairs: usize) -> Self {
        Self(Arc::new((0..pairs).map(|_| Arrival::default()).collect()))
    }

    /// Counts a frame of [`frame`]; `false` where it is another.
    pub fn look(&self, datagram: Datagram<'_>) -> bool {
        let Some(arrival) = number(datagram.frame).and_then(|pair| self.0.get(pair)) else { return false };
        arrival.frames.fetch_add(1, Ordering::Relaxed);
        let _ = arrival.first.compare_exchange(0, datagram.time, Ordering::Relaxed, Ordering::Relaxed);
        true
    }

    /// Frames of a pair.
    #[must_use]
    pub fn frames(&self, pair: usize) -> u64 {
        self.0[pair].frames.load(Ordering::Relaxed)
    }

    /// Frames of all pairs.
    #[must_use]
    pub fn total(&self) -> u64 {
        (0..self.0.len()).map(|pair| self.frames(pair)).sum()
    }

    /// As if none had arrived yet; counts stay.
    pub fn forget_first(&self) {
        self.0.iter().for_each(|arrival| arrival.first.store(0, Ordering::Relaxed));
    }

    fn first(&self, pair: usize) -> u64 {
        self.0[pair].first.load(Ordering::Relaxed)
    }

    /// Makes pairs one after the other, as fast as `ip -batch` does, and sends a frame over each every few milliseconds
    /// until one of it has arrived. Gives how long that took each, from when it was asked for, sorted.
    ///
    /// # Panics
    /// Where not all have in `time`.
    #[must_use]
    pub fn time_creation(&self, host: &Host, pairs: Range<usize>, time: Duration) -> Vec<Duration> {
        let stop = Arc::<AtomicBool>::default();
        let sender = host.thread("sender", {
            let (arrivals, pairs, stop) = (self.clone(), pairs.clone(), stop.clone());
            move || {
                let socket = PacketSocket::unbound();
                while !stop.load(Ordering::Relaxed) {
                    let missing = pairs.clone().filter(|pair| arrivals.first(*pair) == 0);
                    // They are made in this order.
                    for (pair, index) in missing.map_while(|pair| Some((pair, index(&format!("p{pair}"))?))) {
                        // Refused until it is up.
                        let _ = socket.send_to(index, &frame(pair));
                    }
                    thread::sleep(Duration::from_millis(2));
                }
            }
        });
        let asked = host.within({
            let (command, pairs) = (host.command("ip"), pairs.clone());
            move || create_one_by_one(command, pairs)
        });
        let deadline = Instant::now() + time;
        while pairs.clone().any(|pair| self.first(pair) == 0) {
            let missing = pairs.clone().filter(|pair| self.first(*pair) == 0).count();
            assert!(Instant::now() < deadline, "of {missing} pairs no frame is mirrored after {time:?}");
            thread::sleep(Duration::from_millis(5));
        }
        stop.store(true, Ordering::Relaxed);
        sender.join().unwrap();
        let mut delays: Vec<Duration> = pairs
            .zip(asked)
            .map(|(pair, asked)| Duration::from_nanos(self.first(pair).saturating_sub(asked)))
            .collect();
        delays.sort_unstable();
        delays
    }
}

/// Gives when each was asked for: nanoseconds since 1970.
fn create_one_by_one(mut ip: Command, pairs: Range<usize>) -> Vec<u64> {
    let mut ip = ip.args(["-batch", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut lines = ip.stdin.take().unwrap();
    let asked = pairs
        .map(|pair| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            write!(lines, "{}", creation(pair)).unwrap();
            while index(&format!("p{pair}")).is_none() {
                thread::sleep(Duration::from_micros(100));
            }
            now.as_nanos() as u64
        })
        .collect();
    drop(lines);
    assert!(ip.wait().unwrap().success());
    asked
}

/// Sends `count` frames over each pair.
///
/// # Panics
/// Where sending fails.
pub fn send(host: &Host, pairs: Range<usize>, count: usize) {
    host.within(move || {
        let socket = PacketSocket::unbound();
        for pair in pairs {
            let index = index(&format!("p{pair}")).unwrap();
            for _ in 0..count {
                socket.send_to(index, &frame(pair)).unwrap();
            }
        }
    });
}

/// Makes pairs, as fast as `ip -batch` does, both ends up.
///
/// # Panics
/// Where one cannot be made.
pub fn create(host: &Host, pairs: Range<usize>) {
    batch(host, &pairs.map(creation).collect::<String>());
}

fn creation(pair: usize) -> String {
    format!("link add veth{pair} up type veth peer name p{pair}\nlink set p{pair} up\n")
}

/// Takes pairs away, one after the other.
///
/// # Panics
/// Where one is not there.
pub fn delete(host: &Host, pairs: Range<usize>) {
    batch(host, &pairs.map(|pair| format!("link del veth{pair}\n")).collect::<String>());
}

/// Takes pairs away at once.
///
/// # Panics
/// Where one is not there.
pub fn delete_at_once(host: &Host, pairs: Range<usize>) {
    batch(host, &pairs.map(|pair| format!("link set veth{pair} group 77\n")).collect::<String>());
    host.ip("link del group 77");
}

/// Runs lines of `ip -batch`.
///
/// # Panics
/// Where one fails.
pub fn batch(host: &Host, lines: &str) {
    let scratch = Scratch::new();
    let path = scratch.path("lines");
    fs::write(&path, lines).unwrap();
    host.ip(&format!("-batch {}", path.display()));
}

/// A frame of 64 bytes that says which pair it crosses: of the type that IEEE 802 keeps for experiments.
fn frame(pair: usize) -> Vec<u8> {
    let mut frame = vec![2, 0x5e, 0, 0, 0, 2, 2, 0xc0, 0, 0, 0, 2, 0x88, 0xb6];
    frame.extend((pair as u64).to_be_bytes());
    frame.resize(64, 0x5a);
    frame
}

fn number(frame: &[u8]) -> Option<usize> {
    let number = frame.get(14..22)?.first_chunk()?;
    (frame[12..14] == [0x88, 0xb6]).then(|| u64::from_be_bytes(*number) as usize)
}

fn index(iface: &str) -> Option<u32> {
    let name = CString::new(iface).unwrap();
    // SAFETY: `name` ends with a zero byte.
    Some(unsafe { libc::if_nametoindex(name.as_ptr()) }).filter(|index| *index != 0)
}

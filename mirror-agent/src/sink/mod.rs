//! `mirror-agent sink`: the receiving end of a mirror.
//!
//! It receives VXLAN or GENEVE over UDP, takes the frames out, counts them and writes them to a capture. One thread
//! does it all: [`socket`] opens, [`wait`] sleeps, [`receive`] reads, [`tally`] decapsulates and counts,
//! [`capture`] writes, [`report`] tells.

mod args;
mod capture;
mod receive;
mod report;
mod socket;
mod tally;
mod wait;

use std::{
    io::{self, IsTerminal as _},
    net::{SocketAddr, UdpSocket},
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};

pub use self::{args::SinkArgs, tally::Tally};
use self::{capture::Capture, receive::Batch};
use crate::{cli::Encap, console, output::pcapng::STDOUT, signals};

/// Batches between two looks at the kernel's count of drops, which wraps at 2^32.
const BATCHES_PER_DROPS: u32 = 4096;

/// Runs a sink until it is told to stop, then writes its report.
///
/// # Errors
/// Where the address is not to be had, or the capture cannot be written; the message is one line.
pub fn run(args: SinkArgs) -> Result<()> {
    let stop = signals::on_signals()?;
    let stdout_is_capture = args.write.as_deref() == Some(Path::new(STDOUT));
    if stdout_is_capture && io::stdout().is_terminal() {
        bail!("-w - would write to the terminal: pipe it on, or name a file");
    }
    let sink = Sink::open(&args)?;
    console::notice(format_args!("listening on {}", sink.local_addr()?));
    let tally = sink.run(stop)?;
    console::report(&tally, report::text(&tally), args.report, stdout_is_capture)
}

/// A sink that listens. One socket feeds it; a second would be a second `Sink` with a tally of its own.
pub struct Sink {
    socket: UdpSocket,
    encap: Encap,
    batch: Batch,
    tally: Tally,
    /// The kernel's count of drops when last read.
    drops_seen: u32,
    capture: Option<Capture>,
    capture_path: PathBuf,
    limit: u64,
    duration: Option<Duration>,
    stats_interval: Option<Duration>,
}

/// Why a sink stops reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Told to by a signal or by `--duration`: what is queued is still to be read.
    Asked,
    /// `--limit` frames were counted.
    Limit,
    /// Nobody reads the capture any more.
    OutputClosed,
}

impl Sink {
    /// Binds the socket and then, so that a failure there leaves an older capture as it is, starts the capture.
    /// Port 0 is any free port, which [`Sink::local_addr`] tells.
    ///
    /// # Errors
    /// As [`run`].
    pub fn open(args: &SinkArgs) -> Result<Self> {
        let socket = socket::open(args.address(), args.rcvbuf)?;
        let capture_path = args.write.clone().unwrap_or_default();
        let capture = match &args.write {
            Some(path) => {
                Some(Capture::create(path, args.encap).map_err(|error| cannot_write(path, &error))?)
            }
            None => None,
        };
        Ok(Self {
            socket,
            encap: args.encap,
            batch: Batch::new(),
            tally: Tally::new(),
            drops_seen: 0,
            capture,
            capture_path,
            limit: args.run.limit.unwrap_or(u64::MAX),
            duration: args.run.duration,
            stats_interval: args.run.stats_interval,
        })
    }

    /// The address listened on.
    ///
    /// # Errors
    /// Those of getsockname(2).
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Receives until `stop` becomes readable, or `--limit` or `--duration` is reached, or nobody reads the
    /// capture any more. At a stop, what had arrived by then is still received.
    ///
    /// # Errors
    /// Where the socket cannot be read or the capture cannot be written.
    pub fn run(mut self, stop: BorrowedFd<'_>) -> Result<Tally> {
        let mut end = self.receive_until_end(stop)?;
        if end == End::Asked {
            end = self.drain()?.unwrap_or(end);
        }
        self.read_drops()?;
        if let Some(capture) = self.capture.take().filter(|_| end != End::OutputClosed) {
            match capture.finish() {
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                    return Err(cannot_write(&self.capture_path, &error));
                }
                _ => {}
            }
        }
        Ok(self.tally)
    }

    fn receive_until_end(&mut self, stop: BorrowedFd<'_>) -> Result<End> {
        let started = Instant::now();
        // `None`, also after 2^64 seconds, is never.
        let deadline = self.duration.and_then(|duration| started.checked_add(duration));
        let mut stats = self.stats_interval.map(|interval| Stats::new(interval, started));
        let mut batches = 0_u32;
        loop {
            let wake = [deadline, stats.as_ref().and_then(Stats::due)].into_iter().flatten().min();
            let unflushed = self.capture.as_ref().is_some_and(Capture::unflushed);
            let timeout = if unflushed {
                Some(Duration::ZERO)
            } else {
                wake.map(|wake| wake.saturating_duration_since(Instant::now()))
            };
            let output = self.capture.as_ref().map(AsFd::as_fd);
            let ready = wait::wait(self.socket.as_fd(), stop, output, timeout)
                .context("cannot wait for datagrams")?;

            if ready.output_closed {
                return Ok(End::OutputClosed);
            }
            if ready.stop || deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return Ok(End::Asked);
            }
            if ready.datagrams {
                self.receive_batch()?;
                if let Some(end) = self.take_batch(u64::MAX)? {
                    return Ok(end);
                }
                batches += 1;
                if batches == BATCHES_PER_DROPS {
                    batches = 0;
                    self.read_drops()?;
                }
            } else if let Some(capture) = self.capture.as_mut().filter(|_| unflushed) {
                // Nothing more to read: readers of a pipe see every frame before the sink sleeps.
                if let Err(error) = capture.flush() {
                    return self.write_failed(&error);
                }
            }
            if let Some(stats) = stats.as_mut().filter(|stats| stats.is_due(Instant::now())) {
                self.read_drops()?;
                stats.tell(&self.tally, Instant::now());
            }
        }
    }

    /// Receives what had arrived when this was called, not what goes on arriving: a sender that is faster
    /// than the sink would never let it end.
    fn drain(&mut self) -> Result<Option<End>> {
        let until_ns = receive::now_ns();
        while self.receive_batch()? > 0 {
            let end = self.take_batch(until_ns)?;
            if end.is_some() || self.batch.datagrams().any(|datagram| datagram.time_ns > until_ns) {
                return Ok(end);
            }
        }
        Ok(None)
    }

    fn receive_batch(&mut self) -> Result<usize> {
        self.batch.receive(self.socket.as_fd()).context("cannot receive datagrams")
    }

    /// Counts and writes the datagrams of the batch that arrived by `until_ns`.
    fn take_batch(&mut self, until_ns: u64) -> Result<Option<End>> {
        for datagram in self.batch.datagrams().take_while(|datagram| datagram.time_ns <= until_ns) {
            let Some(received) = self.tally.count(self.encap, datagram.payload) else {
                continue;
            };
            if let Some(capture) = &mut self.capture
                && let Err(error) = capture.write(&received, datagram.time_ns)
            {
                return self.write_failed(&error).map(Some);
            }
            if self.tally.frames >= self.limit {
                return Ok(Some(End::Limit));
            }
        }
        Ok(None)
    }

    /// A closed pipe is an end like any other, as in `mirror-agent sink -w - | tcpdump -c 1 -r -`.
    fn write_failed(&self, error: &io::Error) -> Result<End> {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Ok(End::OutputClosed);
        }
        Err(cannot_write(&self.capture_path, error))
    }

    fn read_drops(&mut self) -> Result<()> {
        let drops = socket::drops(self.socket.as_fd()).context("cannot read the socket's count of drops")?;
        self.tally.kernel_drops += u64::from(drops.wrapping_sub(self.drops_seen));
        self.drops_seen = drops;
        Ok(())
    }
}

/// When `--stats-interval` has its next line, and what the last one said.
struct Stats {
    interval: Duration,
    told_at: Instant,
    told_frames: u64,
    told_bytes: u64,
}

impl Stats {
    fn new(interval: Duration, now: Instant) -> Self {
        Self { interval, told_at: now, told_frames: 0, told_bytes: 0 }
    }

    fn due(&self) -> Option<Instant> {
        self.told_at.checked_add(self.interval)
    }

    fn is_due(&self, now: Instant) -> bool {
        self.due().is_some_and(|due| due <= now)
    }

    fn tell(&mut self, tally: &Tally, now: Instant) {
        let period = now.saturating_duration_since(self.told_at);
        let (frames, bytes) = (tally.frames - self.told_frames, tally.bytes - self.told_bytes);
        console::notice(format_args!("{}", report::progress(tally, frames, bytes, period)));
        (self.told_frames, self.told_bytes) = (tally.frames, tally.bytes);
        self.told_at = now;
    }
}

fn cannot_write(path: &Path, error: &io::Error) -> anyhow::Error {
    let what = match error.kind() {
        io::ErrorKind::StorageFull => "no space left on device: free some, or write elsewhere with -w".into(),
        _ => error.to_string(),
    };
    let name = if path == Path::new(STDOUT) { "standard output".into() } else { path.display().to_string() };
    anyhow!("cannot write {name}: {what}")
}

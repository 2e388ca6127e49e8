//! The control plane of live mirroring: starts everything, follows what happens, ends in order.

use std::{
    collections::BTreeMap,
    io,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use mirror_common::{
    record::{Direction, FRAME_MAX},
    settings::Settings,
    udp, vxlan,
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    time::{Instant as Deadline, MissedTickBehavior, interval_at, sleep_until, timeout},
};

use crate::{
    config::{Config, Output as Destination},
    console::{self, notice},
    kernel::{doorbell::Doorbells, hooks::Hooks, load, support},
    ledger::{Ledger, OutputCounters},
    limit::Limit,
    links::{Change, Link, Links},
    names::Names,
    output::{Output, capture::Capture, pcapng::Target, raw_socket::RawSocket},
    privileges,
    report::{DestinationReport, InterfaceReport, Report, stats_line},
    sensor,
    source::ring::RingReader,
    stop::Stop,
    worker::{Event, Worker},
};

/// Longest time to send what was captured before the stop, until it is given up: longer than any network
/// is busy, shorter than the grace that systemd and Kubernetes give.
const DRAIN_TIME: Duration = Duration::from_secs(10);

/// Longest time that a thread may need to notice that it is to give up: one that does not is stuck in a
/// write that nobody takes.
const GIVE_UP_TIME: Duration = Duration::from_secs(2);

/// A signal this soon after the first belongs to it: timeout(1) signals a process and then its group.
const SAME_REQUEST: Duration = Duration::from_secs(1);

/// Mirrors until told to stop, then reports.
///
/// # Errors
///
/// One line: what was wrong, with the value, and what to do.
pub fn run(config: Config) -> Result<()> {
    privileges::require(matches!(config.output, Destination::Sensor { .. }))?;
    support::require()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the control plane")?;
    let result = runtime.block_on(mirror(config));
    // A name that does not resolve, or an output that takes nothing, may still hold a thread.
    runtime.shutdown_background();
    result
}

async fn mirror(config: Config) -> Result<()> {
    let mut signals = Signals::new()?;
    let links = Links::connect()?;
    let wanted = find(&config.ifaces, &links.all().await?)?;
    let run = match &config.output {
        Destination::Sensor { host, port, vni } => {
            let sensor = tokio::select! {
                sensor = sensor::resolve(host, *port) => sensor?,
                () = signals.next() => return Ok(()),
            };
            let rings = config.cpus.len() as u32;
            let payload_max = if sensor.is_ipv4() { udp::PAYLOAD_MAX_V4 } else { udp::PAYLOAD_MAX_V6 };
            let settings = Settings {
                rings,
                frame_max: (payload_max - vxlan::HEADER_LEN) as u32,
                sensor_port: u32::from(*port),
                time_stamps: 0,
            };
            let loaded = load::load(&settings, config.ring_size)?;
            let sockets = (0..rings)
                .map(|ring| {
                    let own_paths = loaded.own_paths.clone();
                    RawSocket::open(sensor, *vni, ring, rings, own_paths, links.address_changes())
                })
                .collect::<Result<Vec<_>>>()?;
            let to = format!("{sensor}, vxlan vni {vni}");
            let names = Names::default();
            Run::start(&config, loaded, || Ok(sockets), names, &links, &wanted, to, Some(sensor.to_string()))
                .await?
        }
        Destination::File(path) => {
            let settings = Settings { rings: 1, frame_max: FRAME_MAX as u32, sensor_port: 0, time_stamps: 1 };
            let names = Names::default();
            let cannot_write = || format!("cannot write to {}", path.display());
            let opens = tokio::task::spawn_blocking({
                let path = path.clone();
                move || Target::open(&path)
            });
            // A FIFO that nobody reads would keep the agent waiting.
            let target = tokio::select! {
                target = opens => target.context("cannot open the capture")?.with_context(cannot_write)?,
                () = signals.next() => return Ok(()),
            };
            let loaded = load::load(&settings, config.ring_size)?;
            let to = path.display().to_string();
            // Only when all interfaces are ours: the file may be another agent's.
            let begin = {
                let names = names.clone();
                || Ok(vec![Capture::begin(target, names).with_context(cannot_write)?])
            };
            Run::start(&config, loaded, begin, names, &links, &wanted, to, None).await?
        }
    };
    run.until_stopped(&config, links, &mut signals).await
}

/// The interfaces with these names, in this order.
fn find(names: &[String], links: &[Link]) -> Result<Vec<Link>> {
    names
        .iter()
        .map(|name| {
            links.iter().find(|link| link.name == *name).cloned().ok_or_else(|| {
                let here: Vec<_> = links.iter().map(|link| link.name.as_str()).collect();
                anyhow!("there is no interface {name} here: there are {}", here.join(", "))
            })
        })
        .collect()
}

/// A run in progress: hooks attached, threads sending.
struct Run {
    hooks: Hooks,
    threads: Vec<JoinHandle<()>>,
    counters: Vec<Arc<OutputCounters>>,
    events: UnboundedReceiver<Event>,
    stop: Arc<Stop>,
    limit: Option<Arc<Limit>>,
    sensor: Option<String>,
    started: Instant,
}

impl Run {
    /// Attaches the hooks and starts the threads. Nothing stays where it fails.
    #[allow(clippy::too_many_arguments, reason = "called twice, with what differs by output")]
    async fn start<O: Output + Send + 'static>(
        config: &Config,
        loaded: load::Loaded,
        outputs: impl FnOnce() -> Result<Vec<O>>,
        names: Names,
        links: &Links,
        wanted: &[Link],
        to: String,
        sensor: Option<String>,
    ) -> Result<Self> {
        let load::Loaded { ebpf, rings, doorbells, counters, own_paths: _ } = loaded;
        let mut hooks = Hooks::new(
            ebpf,
            counters,
            config.directions.clone(),
            config.attach,
            links.handle.clone(),
            names.clone(),
        );
        let stop = Arc::new(Stop::new().context("out of file descriptors")?);
        let limit = config.limit.map(|frames| Arc::new(Limit::new(frames)));
        let (sender, events) = unbounded_channel();
        let started = Instant::now();
        for link in wanted {
            if let Err(error) = hooks.attach(link).await {
                hooks.detach_all().await;
                return Err(error);
            }
        }
        let mut run =
            Self { hooks, threads: Vec::new(), counters: Vec::new(), events, stop, limit, sensor, started };
        let result = outputs()
            .and_then(|outputs| run.start_threads(rings, outputs, &doorbells, &config.cpus, &sender));
        if let Err(error) = result {
            run.stop.give_up();
            run.hooks.detach_all().await;
            return Err(error);
        }
        let ways: Vec<_> = config.directions.iter().map(|&direction| way(direction)).collect();
        notice(format_args!("mirroring {} ({}) to {to}", config.ifaces.join(", "), ways.join("+")));
        Ok(run)
    }

    fn start_threads<O: Output + Send + 'static>(
        &mut self,
        rings: Vec<RingReader>,
        outputs: Vec<O>,
        doorbells: &Doorbells,
        cpus: &[usize],
        events: &UnboundedSender<Event>,
    ) -> Result<()> {
        for (index, ((reader, output), &cpu)) in rings.into_iter().zip(outputs).zip(cpus).enumerate() {
            let counters = Arc::new(OutputCounters::default());
            let worker = Worker {
                reader,
                doorbell: doorbells.ring(index).context("more rings than doorbells")?,
                output,
                counters: Arc::clone(&counters),
                stop: Arc::clone(&self.stop),
                limit: self.limit.clone(),
                events: events.clone(),
            };
            self.counters.push(counters);
            self.threads.push(worker.start(index, cpu).context("cannot start a sending thread")?);
        }
        Ok(())
    }

    async fn until_stopped(mut self, config: &Config, mut links: Links, signals: &mut Signals) -> Result<()> {
        let mut failure = self.follow(config, &mut links, signals).await;

        self.hooks.detach_all().await;
        let duration = self.started.elapsed();
        self.stop.drain();
        let joined = self.join(signals).await;
        while let Ok(event) = self.events.try_recv() {
            if let Event::OutputFailed(error) = event {
                failure.get_or_insert(error);
            }
        }

        let mut report = self.report(config, duration)?;
        if joined.is_err() {
            // What a thread had in its hands that did not end as it should.
            let lost = report.frames.unaccounted().max(0).unsigned_abs();
            report.frames.send_failed += lost;
        }
        console::report(&report, &report, config.report, config.stdout_is_capture)?;
        joined?;
        match failure {
            // Who closes the pipe has seen enough, as in `mirror-agent -w - | head`.
            Some(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            Some(error) => Err(error).with_context(|| match &config.output {
                Destination::File(path) => format!("cannot write to {}", path.display()),
                Destination::Sensor { host, .. } => format!("cannot send to {host}"),
            }),
            None => Ok(()),
        }
    }

    /// Waits for a reason to stop. Returns the error where it is one.
    async fn follow(
        &mut self,
        config: &Config,
        links: &mut Links,
        signals: &mut Signals,
    ) -> Option<io::Error> {
        let ends = config.duration.and_then(|duration| Deadline::now().checked_add(duration));
        let mut stats = config.stats_interval.map(|interval| {
            let mut ticks = interval_at(Deadline::now() + interval, interval);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            (ticks, Instant::now(), 0)
        });
        loop {
            tokio::select! {
                () = signals.next() => return None,
                () = at(ends) => return None,
                Some(event) = self.events.recv() => match event {
                    Event::LimitReached => return None,
                    Event::OutputFailed(error) => return Some(error),
                },
                Some(changes) = links.next_changes() => self.follow_changes(config, links, &changes).await,
                () = tick(&mut stats) => {
                    if let (Some((_, since, sent)), Ok(ledger)) = (&mut stats, self.ledger()) {
                        let rate = (ledger.sent - *sent) as f64 / since.elapsed().as_secs_f64();
                        notice(format_args!("{}", stats_line(&ledger, rate)));
                        (*since, *sent) = (Instant::now(), ledger.sent);
                    }
                }
            }
        }
    }

    /// Interfaces come and go, and change their names: what is mirrored are those that have the names
    /// that were asked for.
    async fn follow_changes(&mut self, config: &Config, links: &Links, changes: &[Change]) {
        // One that was deleted and made again meanwhile may have its number back, but not our hooks.
        for change in changes {
            if let Change::Gone(ifindex) = change {
                self.forget(*ifindex).await;
            }
        }
        let now = match links.all().await {
            Ok(now) => now,
            Err(error) => return log::warn!("{error:#}"),
        };
        let is_there = |(ifindex, name): &(u32, &str)| {
            now.iter().any(|link| link.ifindex == *ifindex && link.name == *name)
        };
        let missing: Vec<u32> = self
            .hooks
            .attached()
            .filter(|attached| !is_there(attached))
            .map(|(ifindex, _)| ifindex)
            .collect();
        for ifindex in missing {
            self.forget(ifindex).await;
        }
        for link in now {
            if config.ifaces.contains(&link.name) && !self.hooks.has(&link.name) {
                match self.hooks.attach(&link).await {
                    Ok(()) => log::warn!("{} is back: mirroring it again", link.name),
                    Err(error) => log::warn!("{error:#}"),
                }
            }
        }
    }

    async fn forget(&mut self, ifindex: u32) {
        if let Some(name) = self.hooks.forget(ifindex).await {
            log::warn!("{name} is gone: it will be mirrored again when it is back");
        }
    }

    /// Waits for the threads to send what their rings hold. A second signal, or too long a wait, ends it.
    async fn join(&mut self, signals: &mut Signals) -> Result<()> {
        let threads = std::mem::take(&mut self.threads);
        let mut joined = tokio::task::spawn_blocking(move || {
            threads.into_iter().map(JoinHandle::join).filter(Result::is_err).count()
        });
        let first = Instant::now();
        let again = async {
            loop {
                signals.next().await;
                if first.elapsed() > SAME_REQUEST {
                    return;
                }
            }
        };
        let in_time = tokio::select! {
            done = timeout(DRAIN_TIME, &mut joined) => done,
            () = again => timeout(Duration::ZERO, &mut joined).await,
        };
        let panicked = match in_time {
            Ok(panicked) => panicked,
            Err(_) => {
                log::warn!("what was captured cannot be sent: giving it up");
                self.stop.give_up();
                match timeout(GIVE_UP_TIME, joined).await {
                    Ok(panicked) => panicked,
                    Err(_) => bail!("the output takes nothing, and what was captured is given up"),
                }
            }
        };
        match panicked.context("cannot wait for the sending threads")? {
            0 => Ok(()),
            count => bail!("{count} sending threads ended in a panic: this is a bug, please report it"),
        }
    }

    fn ledger(&self) -> Result<Ledger> {
        let mut ledger = Ledger::default();
        for counters in &self.counters {
            ledger.sent += counters.sent.get();
            ledger.send_failed += counters.send_failed.get();
        }
        // After what was sent: each frame is seen first, so that nothing is sent that was not seen.
        for seen in self.hooks.seen()? {
            ledger.seen += seen.counters.seen;
            ledger.own += seen.counters.own;
            ledger.ring_full += seen.counters.ring_full;
            ledger.copy_failed += seen.counters.copy_failed;
            ledger.too_big += seen.counters.too_big;
            if let Some(limit) = &self.limit {
                let beyond = limit.beyond(seen.ifindex, seen.direction as u32).frames;
                ledger.seen = ledger.seen.saturating_sub(beyond);
            }
        }
        Ok(ledger)
    }

    fn report(&self, config: &Config, duration: Duration) -> Result<Report> {
        let mut interfaces: Vec<InterfaceReport> = Vec::new();
        for seen in self.hooks.seen()? {
            let beyond = self
                .limit
                .as_ref()
                .map(|limit| limit.beyond(seen.ifindex, seen.direction as u32))
                .unwrap_or_default();
            let (frames, bytes) = (seen.counters.seen - beyond.frames, seen.counters.bytes - beyond.bytes);
            match interfaces.iter_mut().find(|interface| interface.name == seen.name) {
                Some(interface) => {
                    interface.seen += frames;
                    interface.bytes += bytes;
                }
                None => interfaces.push(InterfaceReport { name: seen.name, seen: frames, bytes }),
            }
        }
        let mut send_errors = BTreeMap::new();
        for counters in &self.counters {
            counters.add_errors_to(&mut send_errors);
        }
        let sum = |count: fn(&OutputCounters) -> u64| self.counters.iter().map(|one| count(one)).sum();
        let datagrams = sum(|counters| counters.datagrams.get());
        let bytes = sum(|counters| counters.bytes.get());
        Ok(Report {
            schema: 1,
            mode: "ring",
            hook: "tc",
            encap: if matches!(config.output, Destination::Sensor { .. }) { "vxlan" } else { "none" },
            duration_s: duration.as_secs_f64(),
            interfaces,
            frames: self.ledger()?,
            truncated: 0,
            datagrams_sent: datagrams,
            bytes_sent: bytes,
            send_errors,
            destinations: self
                .sensor
                .iter()
                .map(|address| DestinationReport { address: address.clone(), datagrams, bytes })
                .collect(),
        })
    }
}

fn way(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    }
}

/// Never, where there is no deadline.
async fn at(deadline: Option<Deadline>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Never, where nobody asked for counts.
async fn tick<T, U>(stats: &mut Option<(tokio::time::Interval, T, U)>) {
    match stats {
        Some((ticks, ..)) => {
            ticks.tick().await;
        }
        None => std::future::pending().await,
    }
}

/// SIGINT and SIGTERM, from the moment on that this exists.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let catch = |kind| signal(kind).context("cannot catch signals");
        Ok(Self { interrupt: catch(SignalKind::interrupt())?, terminate: catch(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

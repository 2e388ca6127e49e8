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
    output::{Output, capture::Capture, raw_socket::RawSocket},
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
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the control plane")?
        .block_on(mirror(config))
}

async fn mirror(config: Config) -> Result<()> {
    let mut signals = Signals::new()?;
    let links = Links::connect()?;
    let wanted = find(&config.ifaces, &links.all().await?)?;
    let run = match &config.output {
        Destination::Sensor { host, port, vni } => {
            let sensor = sensor::resolve(host, *port).await?;
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
                .map(|ring| RawSocket::open(sensor, *vni, ring, rings, loaded.own_paths.clone()))
                .collect::<Result<Vec<_>>>()?;
            let to = format!("{sensor}, vxlan vni {vni}");
            let names = Names::default();
            Run::start(&config, loaded, sockets, names, &links, &wanted, to, Some(sensor.to_string())).await?
        }
        Destination::File(path) => {
            let settings = Settings { rings: 1, frame_max: FRAME_MAX as u32, sensor_port: 0, time_stamps: 1 };
            let names = Names::default();
            let capture = Capture::create(path, names.clone())
                .with_context(|| format!("cannot write to {}", path.display()))?;
            let loaded = load::load(&settings, config.ring_size)?;
            let to = path.display().to_string();
            Run::start(&config, loaded, vec![capture], names, &links, &wanted, to, None).await?
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
        outputs: Vec<O>,
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
        if let Err(error) = run.start_threads(rings, outputs, &doorbells, &config.cpus, &sender) {
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
        let failure = self.follow(config, &mut links, signals).await;

        self.hooks.detach_all().await;
        let duration = self.started.elapsed();
        self.stop.drain();
        self.join(signals).await?;

        let report = self.report(config, duration)?;
        console::report(&report, &report, config.report, config.stdout_is_capture)?;
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
                Some(change) = links.next_change() => self.follow_change(config, change).await,
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

    /// Interfaces come and go: the others go on being mirrored, and one that returns is taken up again.
    async fn follow_change(&mut self, config: &Config, change: Change) {
        match change {
            Change::Gone(ifindex) => {
                if let Some(name) = self.hooks.forget(ifindex).await {
                    log::warn!("{name} is gone: it will be mirrored again when it is back");
                }
            }
            Change::Is(link) if config.ifaces.contains(&link.name) && !self.hooks.has(&link.name) => {
                match self.hooks.attach(&link).await {
                    Ok(()) => log::warn!("{} is back: mirroring it again", link.name),
                    Err(error) => log::warn!("{error:#}"),
                }
            }
            Change::Is(_) => {}
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
        let panicked = tokio::select! {
            done = timeout(DRAIN_TIME, &mut joined) => match done {
                Ok(panicked) => panicked,
                Err(_) => {
                    log::warn!("what was captured could not be sent within {DRAIN_TIME:?}: giving it up");
                    self.stop.give_up();
                    joined.await
                }
            },
            () = again => {
                self.stop.give_up();
                joined.await
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

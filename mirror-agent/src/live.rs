//! The control plane of live mirroring: starts everything, follows what happens, ends in order.

mod books;
mod start;

use std::{
    io,
    net::SocketAddr,
    path::Path,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc::UnboundedReceiver,
    time::{Instant as Deadline, MissedTickBehavior, interval_at, sleep_until, timeout},
};

use self::start::{Start, find};
use crate::{
    config::{Config, Output as Destination},
    console::{self, notice},
    kernel::{hooks::Hooks, support},
    ledger::OutputCounters,
    limit::Limit,
    links::{Change, Links},
    names::Names,
    output::pcapng::Target,
    privileges,
    report::stats_line,
    sensor,
    stop::Stop,
    worker::Event,
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
    let start = Start { config: &config, links: &links, wanted, names: Names::default() };
    let run = match &config.output {
        Destination::Sensor { host, port, vni } => {
            let sensor = tokio::select! {
                sensor = sensor::resolve(host, *port) => sensor?,
                () = signals.next() => return Ok(()),
            };
            start.sending_to(sensor, *vni).await?
        }
        Destination::File(path) => {
            let opens = tokio::task::spawn_blocking({
                let path = path.clone();
                move || Target::open(&path)
            });
            // A FIFO that nobody reads would keep the agent waiting.
            let target = tokio::select! {
                target = opens => target.context("cannot open the capture")?,
                () = signals.next() => return Ok(()),
            };
            let target = target.with_context(|| cannot_write(path))?;
            start.writing_to(target, path).await?
        }
    };
    run.until_stopped(&config, links, &mut signals).await
}

fn cannot_write(path: &Path) -> String {
    format!("cannot write to {}", path.display())
}

/// A run in progress: hooks attached, threads sending.
struct Run {
    hooks: Hooks,
    threads: Vec<JoinHandle<()>>,
    counters: Vec<Arc<OutputCounters>>,
    events: UnboundedReceiver<Event>,
    stop: Arc<Stop>,
    limit: Option<Arc<Limit>>,
    sensor: Option<SocketAddr>,
    started: Instant,
}

impl Run {
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
                Destination::File(path) => cannot_write(path),
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
                    Event::FirstRefusal => self.warn_of_refusals(),
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

    /// Once per thread, so that somebody who watches a long run knows before its report.
    fn warn_of_refusals(&self) {
        let names: Vec<_> = self.send_errors().into_keys().collect();
        let to = self.sensor.map(|sensor| format!(" to {sensor}")).unwrap_or_default();
        log::warn!("sending{to} meets {}: the report counts them", names.join(", "));
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

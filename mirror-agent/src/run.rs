//! The control plane: starts everything, follows what happens, ends in order.

mod answers;
mod books;
mod filter;
mod interfaces;
mod origin;
mod progress;
mod reload;
mod signals;
mod start;

use std::{
    io,
    path::Path,
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, bail};
use tokio::{
    sync::mpsc::UnboundedReceiver,
    task::yield_now,
    time::{Instant as Deadline, sleep_until, timeout},
};

use self::{
    origin::Origin,
    progress::Progress,
    signals::{Request, Signals},
    start::Start,
};
use crate::{
    affinity,
    cli::Mode,
    config::{Config, Output as Destination, Source},
    console,
    control::{desk::Desk, listen::Listeners},
    flows::Flows,
    invocation::Reload,
    kernel::support::Support,
    ledger::OutputCounters,
    links::Links,
    names::Names,
    output::pcapng::{STDOUT, Target},
    pool::{Answer, Pool},
    privileges,
    select::steward::Steward,
    service::{self, Watchdog},
    source::ring::RingGauge,
    status::Reloads,
    stop::Stop,
    timings::Timings,
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

/// Mirrors until told to stop, then reports. `reload`: what SIGHUP reads.
///
/// # Errors
///
/// One line: what was wrong, with the value, and what to do.
pub fn run(config: Config, reload: Option<Reload>) -> Result<()> {
    privileges::begin();
    privileges::require(&config)?;
    let is_live = matches!(config.source, Source::Live(_));
    let mut listeners = Listeners::bind(config.metrics, &config.control)?;
    // Before this thread takes precedence, and has what others do not see.
    let desk = listeners.serve()?;
    let support = if is_live { Some(Support::probe()?) } else { None };
    if let Some(support) = &support {
        support.require_live()?;
    }
    if is_live && let Err(error) = affinity::take_precedence() {
        // As for the sending threads, which say so.
        log::debug!("interfaces that come may have to wait for busy programs: {error}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // Its threads look up names, and wait for others.
        .on_thread_start(|| privileges::keep(&[]))
        .build()
        .context("cannot start the control plane")?;
    let result = match runtime.block_on(mirror(config, support, reload, desk)) {
        // Who closes the pipe before anything came has seen enough as well.
        Err(error) if is_broken_pipe(&error) => Ok(()),
        result => result,
    };
    // A name that does not resolve, or an output that takes nothing, may still hold a thread.
    runtime.shutdown_background();
    result
}

async fn mirror(config: Config, support: Option<Support>, reload: Option<Reload>, desk: Desk) -> Result<()> {
    let mut signals = Signals::new(reload.is_some())?;
    if let Source::Replay(replay) = &config.source {
        start::check_readable(replay)?;
    }
    let follows_ways = matches!(&config.source, Source::Live(live) if live.mode == Mode::Redirect);
    let links = Links::connect(follows_ways)?;
    let named = match &config.output {
        Destination::Sensors(sensors, _) => Some(sensors),
        Destination::File { outer, .. } => outer.as_ref(),
    };
    let pool = match named {
        Some(named) => tokio::select! {
            pool = Pool::resolve(named) => Some(pool?),
            () = signals.next() => return Ok(()),
        },
        None => None,
    };
    let start = Start { config: &config, links: &links, names: Names::default(), support };
    let run = match &config.output {
        Destination::Sensors(sensors, delivery) => {
            start.sending_to(pool.context("no sensor")?, &sensors.tunnel, *delivery).await?
        }
        Destination::File { path, .. } => {
            // By a thread that may do what this one may.
            let (opened, opens) = tokio::sync::oneshot::channel();
            thread::Builder::new().name("mirror-open-file".into()).spawn({
                let path = path.clone();
                // Nobody waits any more once the agent stops.
                move || drop(opened.send(Target::open(&path)))
            })?;
            // A FIFO that nobody reads would keep the agent waiting.
            let target = tokio::select! {
                target = opens => target.context("cannot open the capture")?,
                () = signals.next() => return Ok(()),
            };
            let target = target.with_context(|| cannot_write(path))?;
            start.writing_to(target, path, pool.zip(config.tunnel())).await?
        }
    };
    privileges::keep_to_control(&config, reload.as_ref()).context("cannot give up capabilities")?;
    log::info!("capabilities kept to follow interfaces and sensors: {}", privileges::describe());
    run.until_stopped(&config, links, &mut signals, reload, desk).await
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn cannot_write(path: &Path) -> String {
    match path.to_str() {
        Some(STDOUT) => "cannot write to standard output".into(),
        _ => format!("cannot write to {}", path.display()),
    }
}

/// A run in progress: hooks attached, or captures open; threads sending.
struct Run {
    origin: Origin,
    threads: Vec<JoinHandle<()>>,
    counters: Vec<Arc<OutputCounters>>,
    /// Of the rings, in their order: none in redirect mode and in a replay.
    gauges: Vec<RingGauge>,
    /// Of the sending threads.
    timings: Vec<Arc<Timings>>,
    events: UnboundedReceiver<Event>,
    stop: Arc<Stop>,
    /// Whom datagrams are for, sent or written.
    pool: Option<Pool>,
    started: Instant,
    /// The same by the host's clock.
    began: SystemTime,
    reloads: Reloads,
    /// Says which flows the kernel programs take, under `--max-rate`.
    steward: Option<Steward>,
    /// The busiest flows, for who asks.
    flows: Arc<Flows>,
}

impl Run {
    async fn until_stopped(
        mut self,
        config: &Config,
        mut links: Links,
        signals: &mut Signals,
        reload: Option<Reload>,
        mut desk: Desk,
    ) -> Result<()> {
        let mut failure = self.follow(config, &mut links, signals, reload, &mut desk).await;

        service::stopping();
        self.origin.detach(&links).await;
        let duration = self.started.elapsed();
        self.stop.drain();
        let joined = self.join(config, signals, &mut desk).await;
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
                Destination::File { path, .. } => cannot_write(path),
                Destination::Sensors(..) => "cannot send".into(),
            }),
            None => match self.origin.failure() {
                Some(failure) => bail!("{failure}"),
                None => Ok(()),
            },
        }
    }

    /// Waits for a reason to stop. Returns the error where it is one.
    async fn follow(
        &mut self,
        config: &Config,
        links: &mut Links,
        signals: &mut Signals,
        mut reload: Option<Reload>,
        desk: &mut Desk,
    ) -> Option<io::Error> {
        let ends = config.duration.and_then(|duration| Deadline::now().checked_add(duration));
        let mut progress = Progress::new(config);
        let mut watchdog = Watchdog::of_process();
        let error = loop {
            let pool_due = self.pool.as_ref().and_then(Pool::due).map(Deadline::from_std);
            tokio::select! {
                request = signals.any() => match (request, &mut reload) {
                    (Request::Reload, Some(reload)) => self.reload(reload).await,
                    _ => break None,
                },
                () = at(ends) => break None,
                event = self.events.recv(), if !self.threads.is_empty() => match event {
                    // Without an event all threads are gone, which they are only by a panic.
                    Some(Event::LimitReached | Event::SourceEnded) | None => break None,
                    Some(Event::FirstRefusal) => self.warn_of_refusals(),
                    Some(Event::OutputFailed(error)) => break Some(error),
                },
                Some(changes) = links.next_changes() => self.follow_changes(links, changes).await,
                // One at a time, so that whatever else comes up has its turn.
                () = yield_now(), if self.origin.has_waiting() => self.origin.attach_next().await,
                () = at(self.origin.tidy_due()) => self.origin.tidy().await,
                () = at(self.origin.redirect_due()) => {
                    if self.origin.is_limit_reached() {
                        break None;
                    }
                    self.origin.follow_ways(links).await;
                }
                () = at(pool_due) => {
                    let refused = self.refusals();
                    if let Some(pool) = &mut self.pool {
                        pool.follow(links, self.origin.redirect_mut(), refused).await;
                    }
                }
                question = desk.next() => self.answer(question, config, links).await,
                answer = next_answer(&mut self.pool) => {
                    if let Some(pool) = &mut self.pool {
                        pool.take_over(answer, self.origin.redirect_mut());
                    }
                }
                () = at(watchdog.due().map(Deadline::from_std)) => watchdog.tell(),
                () = progress.due() => {
                    if let Ok(ledger) = self.ledger() {
                        progress.tell(&ledger, &self.origin);
                    }
                }
            }
        };
        progress.end();
        error
    }

    /// Once per thread, so that somebody who watches a long run knows before its report.
    fn warn_of_refusals(&self) {
        let names: Vec<_> = self.send_errors().into_keys().collect();
        let to = self.pool.as_ref().map(|pool| format!(" to {}", pool.describe())).unwrap_or_default();
        log::warn!("sending{to} meets {}: the report counts them", names.join(", "));
    }

    /// Waits for the threads to send what their rings hold. A second signal, or too long a wait, ends it.
    /// Questions are answered meanwhile.
    async fn join(&mut self, config: &Config, signals: &mut Signals, desk: &mut Desk) -> Result<()> {
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
            never = self.answer_all_at_end(desk, config) => match never {},
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

/// Never, where there are no names.
async fn next_answer(pool: &mut Option<Pool>) -> Answer {
    match pool {
        Some(pool) => pool.next_answer().await,
        None => std::future::pending().await,
    }
}

/// Never, where there is no deadline.
async fn at(deadline: Option<Deadline>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

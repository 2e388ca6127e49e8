//! Starts a run: everything that has to be there before the first frame is seen.

use std::{
    fs::{self, File, Metadata},
    hash::{BuildHasher as _, RandomState},
    io,
    net::SocketAddr,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Instant, SystemTime},
};

use anyhow::{Context as _, Result, bail};
use mirror_common::{
    budget::Plan,
    ethernet,
    own::Ports,
    record::{Direction, FRAME_MAX},
    settings::{self, Settings},
};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::{Run, cannot_write, interfaces::Interfaces, origin::Origin};
use crate::{
    affinity,
    cli::{Attach, Hook, Mode, Oversize},
    clock::Clock,
    config::{self, Config, Delivery, Source as From},
    console::notice,
    descriptors,
    encap::{
        encapsulation::Wrapping,
        outer::Version,
        tunnel::{Encap, Tunnel},
    },
    flows::Flows,
    kernel::{
        accounts::Accounts,
        hooks::{Hooks, Place},
        load,
        own_paths::OwnPaths,
        skb_layout,
        support::Support,
        vnis::Vnis,
        xdp_layout,
    },
    ledger::OutputCounters,
    limit::Limit,
    links::Links,
    names::Names,
    output::{
        Output,
        capture::{Capture, Content},
        pcapng::Target,
        pool::PoolOutput,
        stack::Kind,
    },
    pool::{Pool, ways::Opener},
    privileges,
    redirect::{Order, Redirect},
    select::steward::Steward,
    service,
    shape::stage::Stage,
    source::{
        Source,
        capture::{CAPTURED_MAX, STDIN},
        live::LiveSource,
        replay::{
            ReplaySource,
            pace::{Pace, Pacing},
            playback::{Playback, called},
            read_ahead,
        },
    },
    status::Reloads,
    stop::Stop,
    timings::Timings,
    worker::{Event, Worker},
};

/// One frame in so many is timed where nobody wants to know of each: what the clock costs is next to nothing so.
const TIME_STAMPS: u32 = 64;

/// What a run starts from, whatever its source and its output.
pub struct Start<'a> {
    pub config: &'a Config,
    pub links: &'a Links,
    pub names: Names,
    /// What the kernel can do, where the source is live.
    pub support: Option<Support>,
}

/// What the output asks of the source.
struct Wishes {
    /// Longest frame that it takes, in bytes.
    frame_max: usize,
    /// The UDP ports that it sends to.
    sensor_ports: Ports,
    /// Whether it wants to know when each frame was captured.
    time_stamps: bool,
    /// Whether the kernel programs are to send themselves.
    redirect: settings::Redirect,
}

impl Start<'_> {
    pub async fn sending_to(self, mut pool: Pool, tunnel: &Tunnel, delivery: Delivery) -> Result<Run> {
        let addresses: Vec<_> = pool.sensors().collect();
        let frame_max = match (&self.config.source, delivery.oversize) {
            // Even the longest is cut to what fits.
            (From::Live(_), Oversize::Truncate) => FRAME_MAX,
            // What one sensor cannot be sent, the way to it leaves out.
            _ => longest_frame(&addresses, tunnel.encap).into_iter().max().context("no sensor")?,
        };
        let sensor_ports = Ports::of(addresses.iter().map(SocketAddr::port));
        let time_stamps = tunnel.encap.has_metadata();
        let wishes = Wishes { frame_max, sensor_ports, time_stamps, redirect: settings::Redirect::OFF };
        let to = format!("{}, {tunnel}", pool.describe());
        pool.start();
        if let From::Live(live) = &self.config.source
            && live.mode == Mode::Redirect
        {
            return self.redirecting_to(pool, tunnel, delivery.oversize, live, wishes, to).await;
        }
        let rings = self.config.cpus.len() as u32;
        let descriptors = descriptors::raise();
        let sockets = privileges::kind_of_sockets(addresses.len() * self.config.cpus.len(), descriptors);
        if let Kind::Udp(count) = sockets {
            let ports = u64::from(count) * u64::from(rings);
            notice(format_args!(
                "datagrams leave by UDP sockets from {ports} ports: another way takes CAP_NET_RAW, which is missing"
            ));
        }
        let address_changes = self.links.address_changes();
        let wrapping = self.wrapping(tunnel);
        let open = |own_paths: Option<OwnPaths>| {
            let ways =
                pool.open(Opener { sockets, wrapping, delivery, rings, own_paths, address_changes })?;
            Ok(|| Ok(ways))
        };
        let mut run = self.run(wishes, open, to).await?;
        run.pool = Some(pool);
        Ok(run)
    }

    async fn redirecting_to(
        self,
        pool: Pool,
        tunnel: &Tunnel,
        oversize: Oversize,
        live: &config::Live,
        wishes: Wishes,
        to: String,
    ) -> Result<Run> {
        let addresses: Vec<_> = pool.sensors().collect();
        let v6 = addresses.iter().find(|sensor| sensor.is_ipv6());
        match (v6, oversize) {
            (Some(sensor), Oversize::Truncate) => bail!(
                "--oversize truncate is for --mode ring where a sensor has an IPv6 address, as {sensor} has"
            ),
            (Some(sensor), Oversize::Fragment) => log::warn!(
                "frames that do not fit into a packet to {sensor} are left out and counted as too_big: redirect mode \
                 does not fragment over IPv6, --mode ring does"
            ),
            _ => {}
        }
        let cpus = affinity::possible()?;
        let cookie = RandomState::new().hash_one(std::process::id());
        let redirect = settings::Redirect {
            is_on: 1,
            family: match (v6, addresses.iter().all(SocketAddr::is_ipv6)) {
                (None, _) => settings::family::V4,
                (Some(_), true) => settings::family::V6,
                (Some(_), false) => settings::family::MIXED,
            },
            destinations: addresses.len() as u32,
            is_fanout: u32::from(pool.is_fanout()),
            oversize: match oversize {
                Oversize::Fragment => settings::oversize::FRAGMENT,
                Oversize::Truncate => settings::oversize::TRUNCATE,
                Oversize::Drop => settings::oversize::DROP,
            },
            cpu_bits: cpus.next_power_of_two().ilog2(),
            cookie: [cookie as u32, (cookie >> 32) as u32],
            tunnel_len: tunnel.encap.header_len() as u32,
            is_geneve: u32::from(tunnel.encap != Encap::Vxlan),
            has_metadata: u32::from(tunnel.encap.has_metadata()),
            has_vnis: u32::from(tunnel.has_own_vnis()),
        };
        // The hook does not ask whom a frame is for before it looks at its length.
        let frame_max = match oversize {
            Oversize::Truncate => wishes.frame_max,
            _ => longest_frame(&addresses, tunnel.encap).into_iter().min().context("no sensor")?,
        };
        let no_outputs = |_: Option<OwnPaths>| Ok(|| Ok(Vec::<PoolOutput>::new()));
        let wishes = Wishes { redirect, frame_max, ..wishes };
        let order = Some((&pool, self.wrapping(tunnel), oversize));
        let mut run = self.live(live, wishes, no_outputs, to, order).await?;
        run.pool = Some(pool);
        Ok(run)
    }

    pub async fn writing_to(
        self,
        target: Target,
        path: &Path,
        outer: Option<(Pool, &Tunnel)>,
    ) -> Result<Run> {
        if let From::Replay(replay) = &self.config.source {
            check_not_read(&target, path, &replay.files)?;
        }
        let clock = self.clock();
        let (mut pool, tunnel) = outer.unzip();
        let (content, frame_max) = match (pool.as_mut().zip(tunnel), &self.config.source) {
            (Some((pool, tunnel)), _) => {
                let addresses: Vec<_> = pool.sensors().collect();
                let longest = longest_frame(&addresses, tunnel.encap).into_iter().max();
                let content = Content::datagrams_to(pool, &self.wrapping(tunnel));
                (content.context("no such datagrams")?, longest.context("no sensor")?)
            }
            (None, From::Live(_)) => (Content::Frames, FRAME_MAX),
            (None, From::Replay(_)) => (Content::Frames, CAPTURED_MAX as usize),
        };
        let redirect = settings::Redirect::OFF;
        let wishes = Wishes { frame_max, sensor_ports: Ports::NONE, time_stamps: true, redirect };
        let (names, path) = (self.names.clone(), path.to_owned());
        let to = path.display().to_string();
        let open = move |_: Option<OwnPaths>| {
            // Only when all interfaces are ours: the file may be another agent's.
            Ok(move || {
                Ok(vec![Capture::begin(target, content, names, clock).with_context(|| cannot_write(&path))?])
            })
        };
        let mut run = self.run(wishes, open, to).await?;
        run.pool = pool;
        Ok(run)
    }

    /// What frames' times are told by.
    fn clock(&self) -> Clock {
        match &self.config.source {
            From::Live(_) => Clock::Monotonic,
            From::Replay(_) => Clock::Epoch,
        }
    }

    /// What the headers of all datagrams have in common.
    fn wrapping(&self, tunnel: &Tunnel) -> Wrapping {
        Wrapping { tunnel: tunnel.clone(), names: self.names.clone(), clock: self.clock() }
    }

    /// `open` gets ready what can fail before any frame is seen, and returns what makes the outputs when
    /// everything else is there.
    async fn run<O, B>(
        self,
        wishes: Wishes,
        open: impl FnOnce(Option<OwnPaths>) -> Result<B>,
        to: String,
    ) -> Result<Run>
    where
        O: Output + Send + 'static,
        B: FnOnce() -> Result<Vec<O>>,
    {
        match &self.config.source {
            From::Live(live) => self.live(live, wishes, open, to, None).await,
            From::Replay(replay) => self.replay(replay, wishes, open, to),
        }
    }

    /// Attaches the hooks, makes the outputs, and starts the threads. Nothing stays where it fails. `redirect` says
    /// where the kernel programs are to send to themselves.
    async fn live<O, B>(
        &self,
        live: &config::Live,
        wishes: Wishes,
        open: impl FnOnce(Option<OwnPaths>) -> Result<B>,
        to: String,
        redirect: Option<(&Pool, Wrapping, Oversize)>,
    ) -> Result<Run>
    where
        O: Output + Send + 'static,
        B: FnOnce() -> Result<Vec<O>>,
    {
        let mut interfaces = Interfaces::new(live.wanted.clone(), self.links.all().await?)?;
        let support = self.support.as_ref().context("the kernel was not asked what it can do")?;
        let place = match live.hook {
            Hook::Tc if live.mode == Mode::Redirect && self.config.limit.is_some() => {
                support.fetch.require()?;
                Place::TcLimited(support.tc_hook(live.attach)?)
            }
            Hook::Tc => Place::Tc(support.tc_hook(live.attach)?),
            Hook::Xdp => Place::Xdp(support.xdp_hook(live.xdp_attach)?),
        };
        let cpus = affinity::possible()?;
        let settings = Settings {
            rings: self.config.cpus.len() as u32,
            // At most FRAME_MAX, which has 17 bits.
            frame_max: wishes.frame_max as u32,
            snaplen: match live.mode {
                // What the hooks keep is cut to size later.
                Mode::Ring => self.config.snaplen.max(ethernet::HEADER_LEN + ethernet::TAG_LEN),
                Mode::Redirect => self.config.snaplen,
            },
            sensor_ports: wishes.sensor_ports,
            time_stamps: if wishes.time_stamps { 1 } else { TIME_STAMPS },
            has_filter: u32::from(self.config.filter.is_some()),
            select: self.config.select.settings(cpus),
            skb: match live.hook {
                Hook::Tc => skb_layout::find(),
                Hook::Xdp => skb_layout::find_quietly(),
            },
            redirect: wishes.redirect,
            xdp: match live.hook {
                Hook::Tc => settings::XdpLayout::UNKNOWN,
                Hook::Xdp => xdp_layout::find(support),
            },
        };
        let filter = self.config.filter.as_ref().map(|filter| &filter.program);
        let load::Loaded {
            mut ebpf,
            rings,
            doorbells,
            counters,
            own_paths,
            budget,
            redirect: maps,
            filtered,
            watched,
        } = load::load(&settings, live.ring_size, place, filter)?;
        let begin = open(Some(own_paths.clone()))?;
        let vnis = match (&redirect, self.config.tunnel()) {
            (Some(_), Some(tunnel)) if tunnel.has_own_vnis() => Some(Vnis::new(&mut ebpf, tunnel.clone())?),
            _ => None,
        };
        let mut hooks = Hooks::new(
            ebpf,
            Accounts::new(counters, live.directions.clone(), self.names.clone()),
            own_paths.clone(),
            live.directions.clone(),
            place,
            live.attach == Attach::Auto,
            self.links.handle.clone(),
        )
        .with_vnis(vnis);
        if let Some(filtered) = filtered {
            hooks.keep(filtered);
        }
        let steward = match budget.zip(self.config.select.max_rate) {
            Some((shared, rate)) => {
                let plan = Plan::new(rate.per_second, rate.unit, cpus as u64);
                let started = Steward::start(shared, plan, rate.unit);
                Some(started.context("cannot start the thread of --max-rate")?)
            }
            None => None,
        };
        let redirect = match (redirect.zip(maps), place) {
            (Some(((pool, wrapping, oversize), maps)), Place::Tc(hook) | Place::TcLimited(hook)) => {
                let (sensors, cookie) = (pool.sensors().collect(), settings.redirect.cookie);
                let order = Order { sensors, wrapping, oversize, cookie, hook, limit: self.config.limit };
                let started = Redirect::start(order, maps, own_paths, hooks.ebpf(), self.links);
                let mut redirect = Box::new(started.await?);
                redirect.share_out(pool.table())?;
                Some(redirect)
            }
            _ => None,
        };
        let result = interfaces.attach_all(&mut hooks).await;
        let is_waiting = hooks.attached().is_empty();
        let limit = self.config.limit.map(|frames| Arc::new(Limit::new(frames)));
        let (hooks, interfaces) = (Box::new(hooks), Box::new(interfaces));
        let origin = Origin::Live { hooks, limit: limit.clone(), redirect, interfaces };
        let (mut run, events) = self.begin(origin)?;
        run.steward = steward;
        if let Some(watched) = watched {
            run.flows.sample_in_kernel(watched);
        }
        let result = result.and_then(|()| begin()).and_then(|outputs| {
            for ((index, reader), output) in rings.into_iter().enumerate().zip(outputs) {
                run.gauges.push(reader.gauge().context("cannot map a ring once more")?);
                let doorbell = doorbells.ring(index).context("more rings than doorbells")?;
                run.start_thread(self.config, LiveSource::new(reader, doorbell), output, &limit, &events)?;
            }
            Ok(())
        });
        if let Err(error) = result {
            run.stop.give_up();
            run.origin.detach(self.links).await;
            return Err(error);
        }
        let ways: Vec<_> = live.directions.iter().map(|&direction| way(direction)).collect();
        let place = if live.hook == Hook::Xdp { ", xdp" } else { "" };
        let yet = if is_waiting { "; there is no such interface yet: waiting for one" } else { "" };
        tell_ready(&format!("mirroring {} ({}{place}) to {to}{yet}", live.wanted, ways.join("+")));
        Ok(run)
    }

    /// Makes the output, and starts the reading and the sending thread.
    fn replay<O, B>(
        &self,
        replay: &config::Replay,
        wishes: Wishes,
        open: impl FnOnce(Option<OwnPaths>) -> Result<B>,
        to: String,
    ) -> Result<Run>
    where
        O: Output + Send + 'static,
        B: FnOnce() -> Result<Vec<O>>,
    {
        let cpu = *self.config.cpus.first().context("no processor to send from")?;
        let outputs = open(None)?()?;
        let playback = Arc::new(Playback::new(&replay.files));
        let order = read_ahead::Order {
            files: replay.files.clone(),
            passes: replay.passes,
            frame_max: wishes.frame_max,
            filter: self.config.filter.as_ref().map(|filter| filter.program.clone()),
            names: self.names.clone(),
        };
        let link = read_ahead::start(order, cpu).context("cannot start the reading thread")?;
        let pace = Pace::new(replay.pacing);
        // What is written at top speed has no other time than that of its capture.
        let in_capture_time = wishes.time_stamps && replay.pacing == Pacing::TopSpeed;
        let source = ReplaySource::new(link, pace, self.config.limit, Arc::clone(&playback))
            .selecting(self.config.select.selector(), in_capture_time);
        let (mut run, events) = self.begin(Origin::Replay(playback))?;
        let files: Vec<_> = replay.files.iter().map(|path| called(path).to_string()).collect();
        tell_ready(&format!("mirroring {} ({}) to {to}", files.join(", "), replay.pacing));
        for (source, output) in std::iter::once(source).zip(outputs) {
            run.start_thread(self.config, source, output, &None, &events)?;
        }
        Ok(run)
    }

    fn begin(&self, origin: Origin) -> Result<(Run, UnboundedSender<Event>)> {
        let (sender, events) = unbounded_channel();
        let flows = Arc::new(Flows::default());
        tokio::spawn({
            let flows = Arc::clone(&flows);
            async move { flows.tend().await }
        });
        let run = Run {
            origin,
            threads: Vec::new(),
            counters: Vec::new(),
            gauges: Vec::new(),
            timings: Vec::new(),
            events,
            stop: Arc::new(Stop::new().context("out of file descriptors")?),
            pool: None,
            started: Instant::now(),
            began: SystemTime::now(),
            reloads: Reloads::default(),
            steward: None,
            flows,
        };
        Ok((run, sender))
    }
}

impl Run {
    fn start_thread<S: Source + Send + 'static, O: Output + Send + 'static>(
        &mut self,
        config: &Config,
        source: S,
        output: O,
        limit: &Option<Arc<Limit>>,
        events: &UnboundedSender<Event>,
    ) -> Result<()> {
        let index = self.threads.len();
        let cpu = *config.cpus.get(index).context("more threads than processors")?;
        let counters = Arc::new(OutputCounters::default());
        let timings = Arc::<Timings>::default();
        let worker = Worker {
            source,
            output,
            stage: Stage::new(config.snaplen as usize),
            sampler: self.flows.sampler(),
            counters: Arc::clone(&counters),
            timings: Arc::clone(&timings),
            stop: Arc::clone(&self.stop),
            limit: limit.clone(),
            events: events.clone(),
        };
        self.counters.push(counters);
        self.timings.push(timings);
        self.threads.push(worker.start(index, cpu).context("cannot start a sending thread")?);
        Ok(())
    }
}

/// The longest frame that fits into a datagram to each of these sensors.
fn longest_frame(sensors: &[SocketAddr], encap: Encap) -> Vec<usize> {
    sensors.iter().map(|sensor| encap.frame_max(Version::of(sensor.ip()))).collect()
}

/// People, and the service manager if there is one.
fn tell_ready(line: &str) {
    notice(format_args!("{line}"));
    service::status(line);
    service::ready();
}

fn way(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    }
}

/// Finds out before the output is touched where there is nothing to play. A file that cannot be read beside
/// others that can does not keep those from being played, and is told at once: its turn may be hours away.
pub fn check_readable(replay: &config::Replay) -> Result<()> {
    let mut errors = Vec::new();
    for path in &replay.files {
        if path != Path::new(STDIN)
            && let Err(error) = check_one(path, replay.passes)?
        {
            errors.push(format!("cannot read {}: {error}", path.display()));
        }
    }
    if errors.len() == replay.files.len() {
        bail!("{}", errors.join("; "));
    }
    for error in &errors {
        notice(format_args!("{error}: the other captures are played"));
    }
    Ok(())
}

/// The outer error is one of the command line, the inner one of the file.
fn check_one(path: &Path, passes: u64) -> Result<Result<(), String>> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) => return Ok(Err(error.to_string())),
    };
    if metadata.is_dir() {
        return Ok(Err("it is a directory, name the captures in it".into()));
    }
    if !metadata.is_file() {
        if passes != 1 {
            bail!("--loop {passes}: {} is no file and can be played once only", path.display());
        }
        // Opening a FIFO would wait for its writer.
        return Ok(Ok(()));
    }
    Ok(File::open(path).map(drop).map_err(|error| error.to_string()))
}

/// A capture that is written over itself would be empty before it is read.
fn check_not_read(target: &Target, path: &Path, files: &[PathBuf]) -> Result<()> {
    let is_same = |a: &Metadata, b: &Metadata| a.is_file() && (a.dev(), a.ino()) == (b.dev(), b.ino());
    let written = target.metadata().with_context(|| cannot_write(path))?;
    let read = |file: &PathBuf| match file.to_str() {
        Some(STDIN) => File::from(io::stdin().as_fd().try_clone_to_owned()?).metadata(),
        _ => fs::metadata(file),
    };
    match files.iter().find(|file| read(file).is_ok_and(|read| is_same(&written, &read))) {
        Some(_) => bail!("{}: it is one of the captures to be read, name another file", cannot_write(path)),
        None => Ok(()),
    }
}

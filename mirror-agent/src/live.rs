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
            let sockets = (0..rings)
                .map(|ring| RawSocket::open(sensor, *vni, ring, rings))
                .collect::<io::Result<Vec<_>>>()
                .and_then(|sockets| Ok((sockets[0].source()?, sockets)))
                .with_context(|| format!("cannot send to {sensor}: is there a route to it?"));
            let (source, sockets) = sockets?;
            let payload_max =
                if sensor.is_ipv4() { udp::PAYLOAD_MAX_V4 } else { udp::PAYLOAD_MAX_V6 };
            let settings = Settings {
                rings,
                frame_max: (payload_max - vxlan::HEADER_LEN) as u32,
                sensor_port: u32::from(*port),
                time_stamps: 0,
            };
            let loaded = load::load(&settings, config.ring_size, &[load::own_path(source, sensor)])?;
            let to = format!("{sensor}, vxlan vni {vni}");
            let names = Names::default();
            Run::start(&config, loaded, sockets, names, &links, &wanted, to, Some(sensor.to_string())).await?
        }
        Destination::File(path) => {
            let settings =
                Settings { rings: 1, frame_max: FRAME_MAX as u32, sensor_port: 0, time_stamps: 1 };
            let names = Names::default();
            let capture = Capture::create(path, names.clone())
                .with_context(|| format!("cannot write to {}", path.display()))?;
            let loaded = load::load(&settings, config.ring_size, &[])?;
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
    names: Names,
    sensor: Option<String>,
    started: Instant,
}

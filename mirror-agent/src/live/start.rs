//! Starts a run: everything that has to be there before the first frame is seen.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Instant};

use anyhow::{Context as _, Result, anyhow};
use mirror_common::{
    record::{Direction, FRAME_MAX},
    settings::Settings,
    udp, vxlan,
};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::{Run, cannot_write};
use crate::{
    config::Config,
    console::notice,
    kernel::{doorbell::Doorbells, hooks::Hooks, load},
    ledger::OutputCounters,
    limit::Limit,
    links::{Link, Links},
    names::Names,
    output::{Output, capture::Capture, pcapng::Target, raw_socket::RawSocket},
    source::{live::LiveSource, ring::RingReader},
    stop::Stop,
    worker::{Event, Worker},
};

/// The interfaces with these names, in this order.
pub fn find(names: &[String], links: &[Link]) -> Result<Vec<Link>> {
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

/// What a run starts from, whatever its output.
pub struct Start<'a> {
    pub config: &'a Config,
    pub links: &'a Links,
    pub wanted: Vec<Link>,
    pub names: Names,
}

impl Start<'_> {
    pub async fn sending_to(self, sensor: SocketAddr, vni: u32) -> Result<Run> {
        let rings = self.config.cpus.len() as u32;
        let payload_max = if sensor.is_ipv4() { udp::PAYLOAD_MAX_V4 } else { udp::PAYLOAD_MAX_V6 };
        let settings = Settings {
            rings,
            frame_max: (payload_max - vxlan::HEADER_LEN) as u32,
            sensor_port: u32::from(sensor.port()),
            time_stamps: 0,
        };
        let loaded = load::load(&settings, self.config.ring_size)?;
        let sockets = (0..rings)
            .map(|ring| {
                let own_paths = Some(loaded.own_paths.clone());
                RawSocket::open(sensor, vni, ring, rings, own_paths, self.links.address_changes())
            })
            .collect::<Result<Vec<_>>>()?;
        let mut run = self.run(loaded, || Ok(sockets), format!("{sensor}, vxlan vni {vni}")).await?;
        run.sensor = Some(sensor);
        Ok(run)
    }

    pub async fn writing_to(self, target: Target, path: &Path) -> Result<Run> {
        let settings = Settings { rings: 1, frame_max: FRAME_MAX as u32, sensor_port: 0, time_stamps: 1 };
        let loaded = load::load(&settings, self.config.ring_size)?;
        let names = self.names.clone();
        // Only when all interfaces are ours: the file may be another agent's.
        let begin = || Ok(vec![Capture::begin(target, names).with_context(|| cannot_write(path))?]);
        self.run(loaded, begin, path.display().to_string()).await
    }

    /// Attaches the hooks, makes the outputs, and starts the threads. Nothing stays where it fails.
    async fn run<O: Output + Send + 'static>(
        self,
        loaded: load::Loaded,
        outputs: impl FnOnce() -> Result<Vec<O>>,
        to: String,
    ) -> Result<Run> {
        let Self { config, links, wanted, names } = self;
        let load::Loaded { ebpf, rings, doorbells, counters, own_paths: _ } = loaded;
        let (sender, events) = unbounded_channel();
        let mut run = Run {
            hooks: Hooks::new(
                ebpf,
                counters,
                config.directions.clone(),
                config.attach,
                links.handle.clone(),
                names,
            ),
            threads: Vec::new(),
            counters: Vec::new(),
            events,
            stop: Arc::new(Stop::new().context("out of file descriptors")?),
            limit: config.limit.map(|frames| Arc::new(Limit::new(frames))),
            sensor: None,
            started: Instant::now(),
        };
        let mut result = Ok(());
        for link in &wanted {
            result = run.hooks.attach(link).await;
            if result.is_err() {
                break;
            }
        }
        let result = result
            .and_then(|()| outputs())
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
}

impl Run {
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
                source: LiveSource::new(reader, doorbells.ring(index).context("more rings than doorbells")?),
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
}

fn way(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    }
}

//! Sends a datagram through the host's stack and sees what it looks like as it leaves, where the encapsulating program
//! takes it away: routes, policy rules, neighbours and NAT are in it as the kernel applies them.

use std::{collections::BTreeMap, io, net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result};
use mirror_common::{
    ethernet,
    record::RecordHeader,
    redirect::{PROBE_LEN, SIGHTING_MAX},
};
use tokio::time::sleep;

use crate::{
    kernel::redirect::RedirectMaps,
    ledger::OutputCounters,
    output::{
        Output as _,
        sighting::{Probe, Sighting},
        stack::Stack,
        tap::Metadata,
    },
    source::Frame,
};

/// Bytes of a probe's frame: one of the shortest, should it ever reach a sensor.
const FRAME_LEN: usize = 60;

/// How long to wait for a probe: most often it has left when the system call is over; where a neighbour is still to be
/// found it takes longer.
const SIGHTING_TIME: Duration = Duration::from_millis(30);

/// Between two looks.
const LOOK_PERIOD: Duration = Duration::from_millis(1);

/// Makes probes.
#[derive(Debug)]
pub struct Prober {
    sensor: SocketAddr,
    cookie: [u32; 2],
    /// Nobody's books: probes are no frames of the run.
    counters: OutputCounters,
}

impl Prober {
    pub fn new(sensor: SocketAddr, cookie: [u32; 2]) -> Self {
        Self { sensor, cookie, counters: OutputCounters::default() }
    }

    /// Sends the probe with this number, which no other one has and is not 0. `None` where it was not seen at the
    /// interface with number `ifindex`.
    pub async fn probe(
        &mut self,
        number: u32,
        raw: &mut Stack,
        maps: &RedirectMaps,
        ifindex: u32,
    ) -> Result<Option<Sighting>> {
        let frame = self.frame(number);
        let header = RecordHeader::default();
        let whole = Frame::whole(&header, &frame);
        raw.send(&[whole], &self.counters)
            .or_else(|error| if error.kind() == io::ErrorKind::Other { Ok(()) } else { Err(error) })
            .context("cannot find out how datagrams leave")?;
        raw.flush(&self.counters).context("cannot find out how datagrams leave")?;
        let headers = raw.headers(&whole);
        let datagram = [&headers[..], &frame].concat();
        let probe = Probe { sensor: self.sensor, datagram: &datagram };
        let looks = SIGHTING_TIME.as_millis() / LOOK_PERIOD.as_millis();
        for _ in 0..looks {
            let seen = maps.sighting()?;
            if seen.number == number {
                let bytes = &seen.bytes[..(seen.len as usize).min(SIGHTING_MAX)];
                let metadata = Metadata {
                    ifindex: seen.ifindex,
                    hardware: libc::ARPHRD_ETHER,
                    is_tagged: seen.is_tagged != 0,
                };
                return Ok((seen.ifindex == ifindex).then(|| probe.judge(bytes, metadata)));
            }
            sleep(LOOK_PERIOD).await;
        }
        Ok(None)
    }

    /// How often the sensor answered that nobody listens there: datagrams of the kernel programs' too, since the
    /// socket gets to know of all between the same addresses.
    pub fn refusals(&self) -> u64 {
        let mut errors = BTreeMap::new();
        self.counters.add_errors_to(&mut errors);
        errors.get("ECONNREFUSED").copied().unwrap_or(0)
    }

    /// Takes in what the network answered since, and tells how often it did that a datagram was not taken at its end.
    pub fn listen(&self, raw: &mut Stack) -> u64 {
        raw.take_reported_errors(&self.counters);
        self.counters.unreached.get()
    }

    /// An Ethernet frame between nobody, of the type that IEEE 802 keeps for experiments, that ends with what the
    /// encapsulating program looks for.
    fn frame(&self, number: u32) -> [u8; FRAME_LEN] {
        const EXPERIMENTAL: u16 = 0x88b5;
        let mut frame = [0; FRAME_LEN];
        frame[12..ethernet::HEADER_LEN as usize].copy_from_slice(&EXPERIMENTAL.to_be_bytes());
        let end = &mut frame[FRAME_LEN - PROBE_LEN as usize..];
        let words = [self.cookie[0], self.cookie[1], number];
        for (place, word) in end.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        frame
    }
}

//! Writes frames, or the datagrams that would carry them, to a capture instead of sending them.

use std::{
    collections::HashMap,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::Range,
    sync::Arc,
};

use mirror_common::record;

use super::{
    Output,
    pcapng::{self, CaptureWriter, Direction, Target},
};
use crate::{
    clock::{Clock, epoch_minus_monotonic_ns},
    encap::{
        encapsulation::{Encapsulation, Wrapping},
        outer::Outer,
    },
    ledger::{Fate, OutputCounters},
    names::Names,
    pool::{Pool, shares::Shares},
    source::{
        Frame,
        capture::{SYNTHETIC_DESTINATION, SYNTHETIC_SOURCE},
    },
};

/// What is written down.
#[derive(Clone, Debug)]
pub enum Content {
    /// The mirrored frames.
    Frames,
    /// The datagrams that sensors would get, with headers that this agent makes up: the same input makes
    /// the same file on every host.
    Datagrams(Headers),
}

/// What goes in front of frames for each of some sensors.
#[derive(Clone, Debug)]
pub struct Headers {
    /// By the sensors' numbers; never empty.
    sensors: Vec<(Outer, Encapsulation)>,
    shares: Arc<Shares>,
    is_fanout: bool,
    /// What is counted for each, where there are several.
    counters: Vec<Arc<OutputCounters>>,
}

impl Headers {
    /// The numbers of the sensors that get the frame.
    fn of(&self, frame: &Frame<'_>) -> Range<usize> {
        let one = |number: usize| number..number + 1;
        match &self.sensors[..] {
            [_] => one(0),
            all if self.is_fanout => 0..all.len(),
            _ => one(usize::from(self.shares.sensor(frame.header.flow_hash))),
        }
    }
}

impl Content {
    /// The datagrams for the sensors of `pool`, with frames wrapped as `wrapping` says. They come from documentation
    /// addresses (RFC 5737, RFC 3849) and locally administered MAC addresses, since what a host would send from is not
    /// the capture's matter.
    #[must_use]
    pub fn datagrams_to(pool: &mut Pool, wrapping: &Wrapping) -> Option<Self> {
        const SOURCE_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
        const SOURCE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
        let headers = |sensor: SocketAddr| {
            let source = if sensor.is_ipv4() { SOURCE_V4.into() } else { SOURCE_V6.into() };
            let outer = Outer::new(SYNTHETIC_SOURCE, SYNTHETIC_DESTINATION, source, sensor.ip())?;
            Some((outer, wrapping.to(sensor.port())))
        };
        let sensors = pool.sensors().map(headers).collect::<Option<Vec<_>>>()?;
        let (shares, is_fanout) = (pool.shares(), pool.is_fanout());
        Some(Self::Datagrams(Headers { sensors, shares, is_fanout, counters: pool.open_books() }))
    }
}

/// A capture with the names of the interfaces that frames come from.
pub struct Capture {
    writer: CaptureWriter,
    content: Content,
    names: Names,
    clock: Clock,
    /// Numbers in the capture by the kernel's numbers.
    interfaces: HashMap<u32, u32>,
    /// The same by name, of live traffic: an interface that is made again is in the capture once.
    named: HashMap<String, u32>,
    /// What was written and not yet flushed: nobody can say that it arrived.
    unflushed: OutputCounters,
    /// Datagrams and bytes of these, by sensor.
    unflushed_each: Vec<(u64, u64)>,
}

/// Frames after which a capture is flushed even under load, so that what a full disk makes known late
/// stays little.
const FLUSH_EVERY: u64 = 16_384;

/// Kernel's numbers that are remembered: where interfaces come and go, there are ever new ones.
const INTERFACES_MAX: usize = 1 << 16;

impl Capture {
    /// Begins a capture in `target`.
    ///
    /// # Errors
    ///
    /// Those of the file.
    pub fn begin(target: Target, content: Content, names: Names, clock: Clock) -> io::Result<Self> {
        let writer = target.begin()?;
        let sensors = match &content {
            Content::Frames => 0,
            Content::Datagrams(headers) => headers.counters.len(),
        };
        Ok(Self {
            writer,
            content,
            names,
            clock,
            interfaces: HashMap::new(),
            named: HashMap::new(),
            unflushed: OutputCounters::default(),
            unflushed_each: vec![(0, 0); sensors],
        })
    }

    /// Writes a frame, and counts it among what is not flushed.
    fn write(&mut self, frame: &Frame<'_>, since_epoch_ns: i64) -> io::Result<()> {
        let header = frame.header;
        let interface = match self.interfaces.get(&header.ifindex) {
            Some(&interface) => interface,
            None => self.add_interface(header.ifindex)?,
        };
        let written = pcapng::Frame {
            interface,
            time_ns: header.time_ns.saturating_add_signed(since_epoch_ns),
            direction: match record::Direction::from_number(header.direction) {
                Some(record::Direction::Ingress) => Some(Direction::Inbound),
                Some(record::Direction::Egress) => Some(Direction::Outbound),
                None => None,
            },
            original_len: frame.wire_len,
            data: &frame.parts(),
        };
        let Content::Datagrams(headers) = &mut self.content else {
            self.writer.write_frame(&written)?;
            self.unflushed.wire_frame_sent(frame);
            return Ok(());
        };
        let mut fate = Fate::Sent;
        let mut header_len = 0;
        for number in headers.of(frame) {
            let Some((outer, encapsulation)) = headers.sensors.get_mut(number) else { continue };
            encapsulation.look_at_clock();
            header_len = encapsulation.encap().header_len();
            // In one piece, as no link would carry it; without fragments its number means nothing.
            let packets = outer.packets(encapsulation.headers(frame), frame.parts(), usize::MAX, 0);
            let Some(packet) = packets.and_then(|mut packets| packets.next()) else {
                fate = Fate::TooBig;
                continue;
            };
            self.writer.write_frame(&pcapng::Frame {
                // Below 2^17: a datagram has 16 bits of length.
                original_len: packet.length() as u32,
                data: &[packet.header(), frame.head, frame.bytes],
                ..written
            })?;
            if let Some((datagrams, bytes)) = self.unflushed_each.get_mut(number) {
                *datagrams += 1;
                *bytes += OutputCounters::payload(frame, header_len);
            }
        }
        match (fate, self.unflushed_each.is_empty()) {
            (Fate::Sent, true) => self.unflushed.datagram_sent(frame, header_len),
            (fate, _) => self.unflushed.wire_frame_ended(frame, fate),
        }
        Ok(())
    }

    /// Gives an interface, of which there was no frame yet, its number in the capture.
    fn add_interface(&mut self, ifindex: u32) -> io::Result<u32> {
        let name = self.names.get(ifindex);
        // In a replay the numbers are the captures' own.
        let known =
            name.as_ref().filter(|_| self.clock == Clock::Monotonic).and_then(|name| self.named.get(name));
        let interface = match known {
            Some(&interface) => interface,
            None => self.writer.add_interface(name.as_deref())?,
        };
        if self.interfaces.len() >= INTERFACES_MAX && self.clock == Clock::Monotonic {
            // Most of them are gone for good.
            self.interfaces.clear();
        }
        self.interfaces.insert(ifindex, interface);
        if let Some(name) = name {
            self.named.insert(name, interface);
        }
        Ok(interface)
    }

    /// Counts what is held back as failed: the file ends somewhere inside it.
    fn give_up(&mut self, counters: &OutputCounters, more: &[Frame<'_>]) {
        let more = more.iter().filter(|frame| !frame.has_more).count();
        counters.too_big.add(self.unflushed.too_big.get());
        counters.give_up(self.unflushed.sent.get() + more as u64);
        self.unflushed = OutputCounters::default();
        self.unflushed_each.fill((0, 0));
    }
}

impl Output for Capture {
    fn send(&mut self, frames: &[Frame<'_>], counters: &OutputCounters) -> io::Result<()> {
        let since_epoch_ns = match self.clock {
            Clock::Monotonic => epoch_minus_monotonic_ns(),
            Clock::Epoch => 0,
        };
        for (done, frame) in frames.iter().enumerate() {
            if let Err(error) = self.write(frame, since_epoch_ns) {
                counters.error(error.raw_os_error().unwrap_or(0));
                self.give_up(counters, &frames[done..]);
                return Err(error);
            }
        }
        if self.unflushed.segments.get() >= FLUSH_EVERY { self.flush(counters) } else { Ok(()) }
    }

    fn flush(&mut self, counters: &OutputCounters) -> io::Result<()> {
        if self.interfaces.is_empty() && self.clock == Clock::Monotonic {
            // libpcap refuses a capture with no interface, and this may stay one with no frame.
            for (ifindex, _) in self.names.all() {
                self.add_interface(ifindex)?;
            }
        }
        if let Err(error) = self.writer.flush() {
            counters.error(error.raw_os_error().unwrap_or(0));
            self.give_up(counters, &[]);
            return Err(error);
        }
        counters.take_over(&self.unflushed);
        if let Content::Datagrams(headers) = &self.content {
            for (counters, (datagrams, bytes)) in headers.counters.iter().zip(&mut self.unflushed_each) {
                counters.datagrams.add(std::mem::take(datagrams));
                counters.bytes.add(std::mem::take(bytes));
            }
        }
        Ok(())
    }

    fn finish(&mut self, counters: &OutputCounters) -> io::Result<()> {
        if self.interfaces.is_empty() {
            // A replay learns names as it goes: only with a frame is it certain which one comes first, and
            // the same input is to give the same bytes. This one had no frame.
            self.writer.add_interface(None)?;
        }
        self.flush(counters)
    }
}

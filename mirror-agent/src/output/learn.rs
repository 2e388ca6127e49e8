//! Learns what a datagram to the sensor looks like when it leaves this host: from a frame's own datagram,
//! which goes through the host's stack while a tap watches. Routes, policy rules, neighbours and NAT are
//! then in it, as the kernel applies them.

use std::{
    any::Any,
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use mirror_common::flow;

use super::{
    Output as _,
    helpers::{Closer, Openings},
    sighting::{Probe, Refusal, Sighting},
    stack::Stack,
    tap::Tap,
};
use crate::{
    encap::{encapsulation::Encapsulation, outer::Outer},
    ledger::OutputCounters,
    source::Frame,
};

/// How often a template is learnt anew: routes and neighbours may have changed.
const PERIOD: Duration = Duration::from_secs(1);

/// How soon it is tried again where a datagram could not be imitated.
const REFUSED_PERIOD: Duration = Duration::from_secs(10);

/// How soon it is tried again where a datagram was not seen, at first; twice as long each time after.
const UNSEEN_PERIOD: Duration = Duration::from_millis(100);

/// The longest of these.
const UNSEEN_PERIOD_MAX: Duration = Duration::from_secs(5);

/// Longest time to wait for a datagram to leave. Most often it has when the system call is over; where a
/// neighbour is still to be found, or a queue is long, it takes longer.
const SIGHTING_TIME: Duration = Duration::from_millis(10);

/// What was learnt.
#[derive(Debug)]
pub(super) enum Lesson {
    /// Datagrams leave like this, through the interface with this number.
    Template(Outer, u32),
    /// They leave through the interface with this number, and cannot be imitated.
    Refused(Refusal, u32),
    /// The datagram was not seen: it waits, or was made unrecognisable (IPsec), or there is no way.
    Unseen,
}

/// One thread's learner.
#[derive(Debug)]
pub(super) struct Learner {
    sensor: SocketAddr,
    due: Instant,
    /// Changes of the host's addresses when it was last learnt.
    changes: u64,
    /// Datagrams that were not seen, in a row.
    unseen: u32,
    datagram: Vec<u8>,
    seen: Vec<u8>,
    closer: Closer,
    /// None where nothing is learnt.
    openings: Option<Openings>,
}

impl Learner {
    pub(super) fn new(sensor: SocketAddr, learns: bool) -> io::Result<Self> {
        Ok(Self {
            sensor,
            due: Instant::now(),
            changes: 0,
            unseen: 0,
            datagram: Vec::new(),
            // The longest packet, with whatever is in front of it.
            seen: vec![0; 1 << 17],
            closer: Closer::start()?,
            openings: if learns { Some(Openings::start()?) } else { None },
        })
    }

    /// Whether the next frame is to be learnt from.
    pub(super) fn is_due(&self, now: Instant, changes: u64) -> bool {
        now >= self.due || changes != self.changes
    }

    /// Puts it off.
    pub(super) fn put_off(&mut self, now: Instant, time: Duration, changes: u64) {
        self.due = now + time;
        self.changes = changes;
    }

    /// Datagrams that were not seen, in a row.
    pub(super) fn unseen(&self) -> u32 {
        self.unseen
    }

    /// Sends `frame` through the host's stack, which counts it, and watches it leave.
    pub(super) fn learn(
        &mut self,
        raw: &mut Stack,
        frame: Frame<'_>,
        counters: &OutputCounters,
    ) -> io::Result<Lesson> {
        let changes = raw.address_changes();
        let (sensor, is_marked) = (self.sensor, raw.is_marked());
        let port = flow::source_port(frame.header.flow_hash);
        let tap = self.open(move || Tap::open(sensor, port, is_marked));
        raw.send(&[frame], counters)?;
        let lesson = match tap {
            Ok(tap) => {
                let lesson = self.watch(&tap, raw.encapsulation_mut(), frame);
                self.closer.close(tap);
                lesson
            }
            Err(error) => Err(error),
        };
        let lesson = lesson.unwrap_or_else(|error| {
            log::debug!("cannot watch a datagram leave: {error}");
            Lesson::Unseen
        });
        let period = match lesson {
            Lesson::Template(..) => PERIOD,
            Lesson::Refused(..) => REFUSED_PERIOD,
            Lesson::Unseen => (UNSEEN_PERIOD * (1 << self.unseen.min(8))).min(UNSEEN_PERIOD_MAX),
        };
        self.unseen = if matches!(lesson, Lesson::Unseen) { self.unseen.saturating_add(1) } else { 0 };
        self.put_off(Instant::now(), period, changes);
        Ok(lesson)
    }

    /// Opens what takes a capability.
    pub(super) fn open<T: Send + 'static>(
        &self,
        open: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        self.openings.as_ref().ok_or_else(|| io::Error::from(io::ErrorKind::PermissionDenied))?.open(open)
    }

    /// Closes what takes the kernel long to close.
    pub(super) fn close(&self, what: impl Any + Send) {
        self.closer.close(what);
    }

    fn watch(
        &mut self,
        tap: &Tap,
        encapsulation: &mut Encapsulation,
        frame: Frame<'_>,
    ) -> io::Result<Lesson> {
        self.datagram.clear();
        // The same as it was sent with: the clock was not looked at since.
        self.datagram.extend_from_slice(&encapsulation.headers(&frame));
        frame.parts().iter().for_each(|part| self.datagram.extend_from_slice(part));
        let probe = Probe { sensor: self.sensor, datagram: &self.datagram };
        let deadline = Instant::now() + SIGHTING_TIME;
        // What comes first is what left through the topmost device.
        while let Some((length, metadata)) = tap.next(&mut self.seen, deadline)? {
            match probe.judge(&self.seen[..length], metadata) {
                Sighting::Other => {}
                Sighting::Template(outer) => return Ok(Lesson::Template(outer, metadata.ifindex)),
                Sighting::Refused(refusal) => return Ok(Lesson::Refused(refusal, metadata.ifindex)),
            }
        }
        Ok(Lesson::Unseen)
    }
}

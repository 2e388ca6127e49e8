//! The ways of the sending threads to the sensors, and what is counted on them.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::AtomicU64},
};

use anyhow::Result;

use super::Pool;
use crate::{
    config::Delivery,
    encap::encapsulation::Wrapping,
    kernel::own_paths::OwnPaths,
    ledger::OutputCounters,
    output::{
        pool::{PoolOutput, Successor, Way},
        sensor::SensorOutput,
        stack::{Kind, Stack},
    },
};

/// One thread's way to one sensor, as the control plane sees it.
pub struct Books {
    /// What is counted on it.
    pub counters: Arc<OutputCounters>,
    /// How it is replaced.
    pub successor: Arc<Successor>,
}

/// Makes ways.
pub struct Opener {
    /// How frames are wrapped.
    pub wrapping: Wrapping,
    /// How datagrams leave.
    pub delivery: Delivery,
    /// What hands datagrams to the host's stack.
    pub sockets: Kind,
    /// Number of sending threads.
    pub rings: u32,
    /// For hooks that must know the datagrams.
    pub own_paths: Option<OwnPaths>,
    /// How often the host's addresses have changed.
    pub address_changes: Arc<AtomicU64>,
}

impl Opener {
    /// Makes a way to a sensor for the thread that serves a ring.
    ///
    /// # Errors
    ///
    /// As for [`Stack::open`] and [`SensorOutput::open`].
    pub fn open(&self, sensor: SocketAddr, ring: u32) -> Result<SensorOutput> {
        let (paths, changes) = (&self.own_paths, Arc::clone(&self.address_changes));
        let encapsulation = self.wrapping.to(sensor.port());
        let raw = Stack::open(sensor, self.sockets, encapsulation, ring, self.rings, paths.clone(), changes)?;
        SensorOutput::open(raw, sensor, self.delivery, paths.clone())
    }
}

impl Pool {
    /// Makes the outputs of all sending threads.
    ///
    /// # Errors
    ///
    /// As for [`Opener::open`].
    pub fn open(&mut self, opener: Opener) -> Result<Vec<PoolOutput>> {
        let opener = self.opener.insert(Arc::new(opener)).clone();
        let (is_fanout, shares) = (self.is_fanout, self.shares());
        let output = |ring| {
            let way = |member: &mut super::Member| {
                let counters =
                    if is_fanout { OutputCounters::with_fates() } else { OutputCounters::default() };
                let books = Books { counters: Arc::new(counters), successor: Arc::default() };
                let way = Way {
                    output: opener.open(member.address, ring)?,
                    counters: Arc::clone(&books.counters),
                    successor: Arc::clone(&books.successor),
                };
                member.books.push(books);
                Ok(way)
            };
            let ways = self.members.iter_mut().map(way).collect::<Result<Vec<_>>>()?;
            Ok(PoolOutput::new(ways, Arc::clone(&shares), is_fanout))
        };
        (0..opener.rings).map(output).collect()
    }

    /// The counters of an output that writes for all sensors, by their numbers; none, where there is one only.
    pub fn open_books(&mut self) -> Vec<Arc<OutputCounters>> {
        if !self.is_several() {
            return Vec::new();
        }
        let open = |member: &mut super::Member| {
            let counters = Arc::<OutputCounters>::default();
            member.books.push(Books { counters: Arc::clone(&counters), successor: Arc::default() });
            counters
        };
        self.members.iter_mut().map(open).collect()
    }

    /// What is counted apart from the sending threads' own counters.
    pub fn counters(&self) -> impl Iterator<Item = &OutputCounters> {
        self.members.iter().flat_map(|member| &member.books).map(|books| &*books.counters)
    }
}

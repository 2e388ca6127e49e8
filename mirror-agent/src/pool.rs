//! Several sensors, as the control plane sees them: which of them a flow goes to, which of them are there, and which
//! addresses their names stand for.

pub mod health;
pub mod lone;
pub(crate) mod reach;
pub mod rendezvous;
mod resolver;
pub mod shares;
pub mod ways;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use mirror_common::pool::Table;

pub use self::resolver::Answer;
use self::{
    health::{Event, Health, Reason, Signs},
    lone::{Lone, Refusals},
    reach::Reach,
    rendezvous::Share,
    resolver::{Resolver, choose},
    shares::Shares,
    ways::{Books, Opener},
};
use crate::{
    config::{Sensor, Sensors},
    links::Links,
    output::sensor::Way,
    redirect::Redirect,
    report::DestinationReport,
};

/// How often it is looked whether a sensor refuses.
const PERIOD: Duration = Duration::from_millis(100);

/// Frames in a row that this host could not send, before that is the sensor's fault.
const FAILED_IN_A_ROW: u64 = 3;

/// The sensors of a run.
pub struct Pool {
    members: Vec<Member>,
    is_fanout: bool,
    /// Of the sending threads.
    shares: Arc<Shares>,
    /// Makes ways for the sending threads; none where they do not send.
    opener: Option<Arc<Opener>>,
    /// Whether anything is sent.
    is_sending: bool,
    table: Box<Table>,
    resolver: Resolver,
    reach: Reach,
    gone: Vec<bool>,
    /// What is known of the one sensor, where there is one only.
    lone: Lone,
    looked: Instant,
    reached: Instant,
}

/// A sensor.
struct Member {
    named: Sensor,
    address: SocketAddr,
    health: Health,
    /// Its counts and ways in each sending thread.
    books: Vec<Books>,
    before: Counts,
    failed_in_a_row: u64,
    /// Why it was marked down last.
    reason: Option<Reason>,
}

/// What was counted for a sensor so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    datagrams: u64,
    bytes: u64,
    failed: u64,
    unreached: u64,
}

impl Pool {
    /// Finds the sensors' addresses.
    ///
    /// # Errors
    ///
    /// A name does not resolve.
    pub async fn resolve(sensors: &Sensors) -> Result<Self> {
        let now = Instant::now();
        let mut members = Vec::new();
        for named in &sensors.all {
            members.push(Member {
                named: named.clone(),
                address: crate::sensor::resolve(&named.host, named.port).await?,
                health: Health::new(now),
                books: Vec::new(),
                before: Counts::default(),
                failed_in_a_row: 0,
                reason: None,
            });
        }
        let name = |named: &Sensor| named.address().is_none().then(|| (named.host.clone(), named.port));
        let table = rendezvous::table(&shares(&members));
        Ok(Self {
            is_fanout: sensors.is_fanout && members.len() > 1,
            shares: Arc::new(Shares::new(&table)),
            opener: None,
            is_sending: false,
            table,
            resolver: Resolver::new(sensors.all.iter().map(name), sensors.resolve_interval),
            reach: Reach::default(),
            lone: Lone::default(),
            gone: vec![false; members.len()],
            looked: now,
            reached: now,
            members,
        })
    }

    /// The sensors' addresses, by their numbers.
    pub fn sensors(&self) -> impl Iterator<Item = SocketAddr> {
        self.members.iter().map(|member| member.address)
    }

    /// Whether there is more than one.
    #[must_use]
    pub fn is_several(&self) -> bool {
        self.members.len() > 1
    }

    /// Whether each gets every frame.
    #[must_use]
    pub fn is_fanout(&self) -> bool {
        self.is_fanout
    }

    /// Which sensor has which flows.
    #[must_use]
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// The same, for threads.
    #[must_use]
    pub fn shares(&self) -> Arc<Shares> {
        Arc::clone(&self.shares)
    }

    /// What the user reads of where frames go.
    #[must_use]
    pub fn describe(&self) -> String {
        let all: Vec<_> = self.members.iter().map(Member::describe).collect();
        match (&all[..], self.is_fanout) {
            ([one], _) => one.clone(),
            (_, true) => format!("each of {}", all.join(", ")),
            (_, false) => format!("one of {}", all.join(", ")),
        }
    }

    /// Datagrams are sent, so that it matters who is there.
    pub fn start(&mut self) {
        self.is_sending = true;
    }

    /// When [`Self::follow`] is to be called; never, where there is nothing to follow.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        if !self.is_sending {
            return None;
        }
        let period = if self.is_several() { PERIOD } else { lone::PERIOD };
        [self.looked + period].into_iter().chain(self.resolver.due()).min()
    }

    /// Waits for the next answer of a resolver.
    pub async fn next_answer(&mut self) -> Answer {
        self.resolver.next().await
    }

    /// Looks which sensors are there, and has those that went give up their flows.
    /// `refusals` speak against the one that there is, where there is one only.
    pub async fn follow(&mut self, links: &Links, mut redirect: Option<&mut Redirect>, refusals: Refusals) {
        self.resolver.ask();
        for books in self.members.iter().flat_map(|member| &member.books) {
            books.successor.close_retired();
        }
        let now = Instant::now();
        if !self.is_several() {
            if now >= self.looked + lone::PERIOD {
                self.looked = now;
                let of_kernel = redirect.map_or(0, |redirect| redirect.unreached(0));
                self.lone.note(now, refusals.and_unreached(of_kernel));
            }
            return;
        }
        if now < self.looked + PERIOD {
            return;
        }
        self.looked = now;
        if now >= self.reached + reach::PERIOD {
            self.reached = now;
            let addresses: Vec<_> = self.members.iter().map(|member| member.address).collect();
            match self.reach.look(links, &addresses).await {
                Ok(gone) => self.gone = gone,
                Err(error) => log::debug!("cannot find out whether sensors are there: {error:#}"),
            }
        }
        let mut events = Vec::new();
        for (number, (member, gone)) in self.members.iter_mut().zip(&self.gone).enumerate() {
            let counts = match &mut redirect {
                Some(redirect) => redirected(redirect, number),
                None => member.counts(),
            };
            let signs = Signs { is_unreachable: *gone, against: member.note(counts) };
            let event = member.health.look(Instant::now(), signs);
            if let Some(Event::Down(reason) | Event::Still(reason)) = event {
                member.reason = Some(reason);
            }
            events.extend(event.map(|event| (number, event)));
            if member.health.is_down() {
                self.resolver.hurry(number);
            }
        }
        self.share_out(redirect);
        // Now it is so.
        for (member, event) in
            events.iter().filter_map(|(number, event)| Some((self.members.get(*number)?, event)))
        {
            member.tell(*event);
        }
    }

    /// Takes over what a name stands for now.
    pub fn take_over(&mut self, answer: Answer, redirect: Option<&mut Redirect>) {
        let Answer { sensor: number, addresses } = answer;
        let Some(member) = self.members.get_mut(number) else { return };
        let addresses = match addresses {
            Ok(addresses) => addresses,
            Err(error) => {
                return log::debug!("{} does not resolve any more: {error}", member.named.host);
            }
        };
        let before = member.address;
        // In redirect mode the kernel programs were made for one kind.
        let is_of_kind = |address: &SocketAddr| redirect.is_none() || address.is_ipv4() == before.is_ipv4();
        let answers: Vec<_> = addresses.iter().copied().filter(is_of_kind).collect();
        if answers.is_empty() && !addresses.is_empty() {
            return log::debug!("{} has no address of the same kind any more", member.named.host);
        }
        let address = choose(before, &answers, member.health.is_down());
        if address == before {
            return;
        }
        let result = match redirect {
            Some(redirect) => redirect.readdress(number, address),
            None => member.readdress(self.opener.as_deref(), address),
        };
        match result {
            Ok(()) => {
                log::warn!("{} stands for {address} now, and no longer for {before}", member.named);
                member.address = address;
                member.health.start_over(Instant::now());
                if let Some(gone) = self.gone.get_mut(number) {
                    *gone = false;
                }
            }
            Err(error) => {
                log::debug!("{} stands for {address} now, which cannot be sent to: {error:#}", member.named);
            }
        }
    }

    /// Puts the table in force that follows from who is there, if it is another.
    fn share_out(&mut self, redirect: Option<&mut Redirect>) {
        let table = rendezvous::table(&shares(&self.members));
        if table == self.table {
            return;
        }
        self.shares.replace(&table);
        if let Some(redirect) = redirect
            && let Err(error) = redirect.share_out(&table)
        {
            return log::warn!("{error:#}");
        }
        self.table = table;
    }

    /// Why no sensor is reachable, as far as is known; nothing, where one is or nothing is sent.
    pub async fn unreachable(&mut self, links: &Links, redirect: Option<&Redirect>) -> Vec<String> {
        if !self.is_sending {
            return Vec::new();
        }
        let [only] = &self.members[..] else {
            let all_down = self.members.iter().all(|member| member.health.is_down());
            let why = |member: &Member| match member.reason {
                Some(reason) => format!("{} is down: {reason}", member.named),
                None => format!("{} is down", member.named),
            };
            return if all_down { self.members.iter().map(why).collect() } else { Vec::new() };
        };
        let unknown = redirect.is_some_and(|redirect| !redirect.is_known(0));
        let why = if unknown {
            Some("nobody answers for it yet".into())
        } else {
            self.lone.unreachable(links, only.address).await
        };
        why.map(|why| format!("{} is not reachable: {why}", only.named)).into_iter().collect()
    }

    /// Whether the sensor with this number is taken to be down, also where there is no other.
    #[must_use]
    pub fn is_down(&self, number: usize) -> bool {
        match &self.members[..] {
            [_] => self.is_sending && self.lone.is_down(),
            members => members.get(number).is_some_and(|member| member.health.is_down()),
        }
    }

    /// Which way datagrams leave to each of several sensors.
    #[must_use]
    pub fn ways(&self) -> Vec<Option<Way>> {
        let way = |member: &Member| member.books.iter().filter_map(|books| books.counters.way()).max();
        self.members.iter().map(way).collect()
    }

    /// What was sent to each sensor. `total` is all of it: datagrams and bytes.
    ///
    /// # Errors
    ///
    /// The kernel does not give the counts.
    pub fn report(&self, redirect: Option<&Redirect>, total: (u64, u64)) -> Result<Vec<DestinationReport>> {
        let now = Instant::now();
        let one = |(number, member): (usize, &Member)| {
            let counts = match redirect {
                _ if !self.is_several() => Counts { datagrams: total.0, bytes: total.1, ..Counts::default() },
                Some(redirect) => {
                    let tally = redirect.tally(number)?;
                    Counts { datagrams: tally.datagrams, bytes: tally.payload, ..Counts::default() }
                }
                None => member.counts(),
            };
            Ok(DestinationReport {
                address: member.address.to_string(),
                name: member.named.address().is_none().then(|| member.named.to_string()),
                datagrams: counts.datagrams,
                bytes: counts.bytes,
                down_s: (member.health.down_time(now).as_secs_f64() * 1e3).round() / 1e3,
                times_down: member.health.times(),
                is_down: member.health.is_down(),
            })
        };
        self.members.iter().enumerate().map(one).collect()
    }
}

fn shares(members: &[Member]) -> Vec<Share> {
    let share = |member: &Member| Share {
        key: rendezvous::key(&member.named.host, member.named.port),
        weight: member.named.weight,
        part: member.health.part(),
    };
    members.iter().map(share).collect()
}

/// What the kernel programs count.
fn redirected(redirect: &mut Redirect, number: usize) -> Counts {
    let tally = redirect.tally(number).unwrap_or_default();
    Counts {
        datagrams: tally.datagrams,
        bytes: tally.payload,
        failed: tally.failed,
        unreached: redirect.unreached(number),
    }
}

impl Member {
    fn describe(&self) -> String {
        let weight = if self.named.weight == 1 { String::new() } else { format!("={}", self.named.weight) };
        match self.named.address() {
            Some(address) => format!("{address}{weight}"),
            None => format!("{} ({}){weight}", self.named, self.address),
        }
    }

    /// What the sending threads count.
    fn counts(&self) -> Counts {
        self.books.iter().fold(Counts::default(), |sum, Books { counters, .. }| Counts {
            datagrams: sum.datagrams + counters.datagrams.get(),
            bytes: sum.bytes + counters.bytes.get(),
            failed: sum.failed + counters.send_failed.get(),
            unreached: sum.unreached + counters.unreached.get(),
        })
    }

    /// What speaks against the sensor, of what was counted since the last look.
    fn note(&mut self, counts: Counts) -> Option<Reason> {
        let before = std::mem::replace(&mut self.before, counts);
        if counts.datagrams != before.datagrams {
            self.failed_in_a_row = 0;
        } else {
            self.failed_in_a_row += counts.failed.saturating_sub(before.failed);
        }
        if counts.unreached > before.unreached {
            return Some(Reason::Refused);
        }
        if self.failed_in_a_row >= FAILED_IN_A_ROW {
            self.failed_in_a_row = 0;
            return Some(Reason::Failing);
        }
        None
    }

    fn tell(&self, event: Event) {
        let sensor = &self.named;
        match event {
            // A trial is no news.
            Event::Trial => log::debug!("trying {sensor} again"),
            Event::Still(_) => log::debug!("{sensor} is still down"),
            Event::Down(reason) => {
                log::warn!("{sensor} is down, {reason}: its connections go to the others until it is back");
            }
            Event::Up(time) => {
                log::warn!(
                    "{sensor} is back after {:.1} s, and has its connections again",
                    time.as_secs_f64()
                );
            }
        }
    }

    /// Has all threads send to another address.
    fn readdress(&self, opener: Option<&Opener>, address: SocketAddr) -> Result<()> {
        let opener = opener.context("nothing is sent")?;
        let open = |ring| opener.open(address, ring);
        // All or none.
        let ways = (0..).take(self.books.len()).map(open).collect::<Result<Vec<_>>>()?;
        for (books, way) in self.books.iter().zip(ways) {
            books.successor.install(way);
        }
        Ok(())
    }
}

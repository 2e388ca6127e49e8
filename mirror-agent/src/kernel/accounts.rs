//! What the hooks counted, by interface, also of those that are gone.
//!
//! The kernel's map of counters has room for the interfaces that there are. What those that went have in it is added up
//! under their names, and their entries are given back: where interfaces come and go for days, the map does not fill.

use std::collections::BTreeMap;

use anyhow::Result;
use mirror_common::{counters::HookCounters, record::Direction};
use tokio::task::JoinHandle;

use super::{counters::Counters, hooks::wait_for_running_programs};
use crate::names::Names;

/// One for each direction.
type Both = [HookCounters; 2];

/// Names of interfaces that are gone, each with counts of its own. Those beyond share an account.
const PAST_MAX: usize = 8192;

/// The name of that one, which no interface can have.
const OTHERS: &str = "(others)";

/// The accounts of all interfaces of a run.
pub struct Accounts {
    counters: Counters,
    directions: Vec<Direction>,
    names: Names,
    current: BTreeMap<u32, Account>,
    past: BTreeMap<String, Both>,
    /// Ends when no hook runs any more that ran when it began.
    fence: Option<JoinHandle<()>>,
}

/// An entry of the kernel's map.
struct Account {
    name: String,
    /// Of the counts, what belongs to a name that the interface had before.
    settled: Both,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Hooks count.
    Open,
    /// Detached: a hook may still be running.
    Closed,
    /// Detached before the fence was begun.
    Fenced,
}

/// What an interface's hooks saw in the whole run.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The numbers of the interfaces that had the name.
    pub ifindexes: Vec<u32>,
    /// The interface's name.
    pub name: String,
    /// Which way.
    pub direction: Direction,
    /// The counts.
    pub counters: HookCounters,
}

impl Accounts {
    /// None yet. `names` learns every interface that gets one.
    #[must_use]
    pub fn new(counters: Counters, directions: Vec<Direction>, names: Names) -> Self {
        Self { counters, directions, names, current: BTreeMap::new(), past: BTreeMap::new(), fence: None }
    }

    /// Opens the account of an interface, before its hooks are attached: they do not look at frames that they cannot
    /// count.
    ///
    /// # Errors
    ///
    /// The kernel has no memory, or the map is full.
    pub fn open(&mut self, ifindex: u32, name: &str) -> Result<()> {
        if self.current.contains_key(&ifindex) {
            // It was detached from a moment ago, or an earlier one had its number.
            self.rename(ifindex, name)?;
        } else {
            for &direction in &self.directions {
                self.counters.open(ifindex, direction)?;
            }
            let account = Account { name: name.into(), settled: Both::default(), state: State::Open };
            self.current.insert(ifindex, account);
        }
        if let Some(account) = self.current.get_mut(&ifindex) {
            account.state = State::Open;
        }
        self.names.learn(ifindex, name);
        Ok(())
    }

    /// What an interface's hooks count from now on is under another name.
    ///
    /// # Errors
    ///
    /// The kernel does not give the counters.
    pub fn rename(&mut self, ifindex: u32, name: &str) -> Result<()> {
        if self.current.get(&ifindex).is_some_and(|account| account.name != name) {
            self.settle(ifindex)?;
            if let Some(account) = self.current.get_mut(&ifindex) {
                account.name = name.into();
            }
            self.names.learn(ifindex, name);
        }
        Ok(())
    }

    /// The hooks are detached. [`Self::tidy`] does the rest.
    pub fn close(&mut self, ifindex: u32) {
        if let Some(account) = self.current.get_mut(&ifindex) {
            account.state = State::Closed;
        }
    }

    /// Whether [`Self::tidy`] has something to do.
    #[must_use]
    pub fn is_untidy(&self) -> bool {
        self.fence.is_some() || self.current.values().any(|account| account.state != State::Open)
    }

    /// Adds up what was closed, and gives the entries back, as soon as that is safe: a hook that still runs would count
    /// into an entry that is another interface's by then. To be called now and then.
    pub fn tidy(&mut self) {
        if let Some(fence) = &self.fence {
            if !fence.is_finished() {
                return;
            }
            self.fence = None;
            let fenced: Vec<u32> = self.with_state(State::Fenced);
            for ifindex in fenced {
                if let Err(error) = self.settle(ifindex) {
                    // Stays as it is: nothing is lost.
                    log::debug!("{error:#}");
                    continue;
                }
                self.current.remove(&ifindex);
                self.names.let_go(ifindex);
                for &direction in &self.directions {
                    self.counters.close(ifindex, direction);
                }
            }
        }
        let closed = self.with_state(State::Closed);
        if !closed.is_empty() {
            for ifindex in closed {
                if let Some(account) = self.current.get_mut(&ifindex) {
                    account.state = State::Fenced;
                }
            }
            self.fence = Some(tokio::spawn(wait_for_running_programs()));
        }
    }

    fn with_state(&self, state: State) -> Vec<u32> {
        let has_state = self.current.iter().filter(|(_, account)| account.state == state);
        has_state.map(|(&ifindex, _)| ifindex).collect()
    }

    /// Adds what an interface counted under its name so far to what that has from before.
    fn settle(&mut self, ifindex: u32) -> Result<()> {
        let counted = self.read(ifindex)?;
        let Some(account) = self.current.get_mut(&ifindex) else { return Ok(()) };
        let is_known = self.past.contains_key(&account.name);
        let name = if is_known || self.past.len() < PAST_MAX { &account.name } else { OTHERS };
        let past = self.past.entry(name.into()).or_default();
        for (index, counted) in counted.into_iter().enumerate() {
            past[index] = past[index].plus(counted.minus(account.settled[index]));
            account.settled[index] = counted;
        }
        Ok(())
    }

    fn read(&self, ifindex: u32) -> Result<Both> {
        let mut counted = Both::default();
        for &direction in &self.directions {
            counted[direction as usize] = self.counters.read(ifindex, direction)?;
        }
        Ok(counted)
    }

    /// What was counted of each interface, those that are gone included.
    ///
    /// # Errors
    ///
    /// The kernel does not give the counters.
    pub fn seen(&self) -> Result<Vec<Seen>> {
        let mut all: BTreeMap<&str, (Vec<u32>, Both)> = BTreeMap::new();
        for (name, past) in &self.past {
            all.insert(name, (Vec::new(), *past));
        }
        for (&ifindex, account) in &self.current {
            let (ifindexes, sum) = all.entry(&account.name).or_default();
            ifindexes.push(ifindex);
            for (index, counted) in self.read(ifindex)?.into_iter().enumerate() {
                sum[index] = sum[index].plus(counted.minus(account.settled[index]));
            }
        }
        // Frames of one that is gone may still lie in a ring.
        for (ifindex, name) in self.names.all() {
            if !self.current.contains_key(&ifindex)
                && let Some((ifindexes, _)) = all.get_mut(name.as_str())
            {
                ifindexes.push(ifindex);
            }
        }
        let each = |(name, (ifindexes, counted)): (&str, (Vec<u32>, Both))| {
            let directions = self.directions.iter();
            let seen = directions.map(move |&direction| Seen {
                ifindexes: ifindexes.clone(),
                name: name.into(),
                direction,
                counters: counted[direction as usize],
            });
            seen.collect::<Vec<_>>()
        };
        Ok(all.into_iter().flat_map(each).collect())
    }
}

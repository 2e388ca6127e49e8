//! Which name belongs to which interface number in this run.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Interfaces that are gone whose names are still known: their frames may be on their way to the output.
const GONE_MAX: usize = 4096;

/// Shared by the control plane, which learns names, and by outputs, which ask once per interface.
#[derive(Clone, Debug, Default)]
pub struct Names(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    names: BTreeMap<u32, String>,
    /// In the order in which they went.
    gone: VecDeque<u32>,
}

impl Names {
    /// The interface with this number is called so from now on.
    pub fn learn(&self, ifindex: u32, name: &str) {
        let mut known = self.lock();
        known.gone.retain(|gone| *gone != ifindex);
        known.names.insert(ifindex, name.into());
    }

    /// The interface with this number is gone. Its name is forgotten when many more are.
    pub fn let_go(&self, ifindex: u32) {
        let mut known = self.lock();
        known.gone.push_back(ifindex);
        if known.gone.len() > GONE_MAX
            && let Some(oldest) = known.gone.pop_front()
        {
            known.names.remove(&oldest);
        }
    }

    /// The name. `None` where nobody learnt one: captures need not name their interfaces.
    #[must_use]
    pub fn get(&self, ifindex: u32) -> Option<String> {
        self.lock().names.get(&ifindex).cloned()
    }

    /// All numbers and names.
    #[must_use]
    pub fn all(&self) -> Vec<(u32, String)> {
        self.lock().names.iter().map(|(&ifindex, name)| (ifindex, name.clone())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_those_that_are_gone_are_forgotten_in_time() {
        let names = Names::default();
        names.learn(1, "stays");
        for ifindex in 2..2 * GONE_MAX as u32 {
            names.learn(ifindex, "comes and goes");
            names.let_go(ifindex);
        }
        assert_eq!(names.all().len(), GONE_MAX + 1);
        assert_eq!(names.get(1).as_deref(), Some("stays"));
        assert_eq!(names.get(2), None);
        let last = 2 * GONE_MAX as u32 - 1;
        names.learn(last, "is back");
        assert_eq!(names.get(last).as_deref(), Some("is back"));
        assert_eq!(names.0.lock().map(|known| known.gone.len()).ok(), Some(GONE_MAX - 1));
    }
}

//! Which name belonged to which interface number in this run.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Shared by the control plane, which learns names, and by outputs, which ask once per interface.
#[derive(Clone, Debug, Default)]
pub struct Names(Arc<Mutex<BTreeMap<u32, String>>>);

impl Names {
    /// The interface with this number is called so. The first name stays: counts are kept under it.
    pub fn learn(&self, ifindex: u32, name: &str) {
        self.lock().entry(ifindex).or_insert_with(|| name.to_string());
    }

    /// The name. `None` where nobody learnt one: captures need not name their interfaces.
    #[must_use]
    pub fn get(&self, ifindex: u32) -> Option<String> {
        self.lock().get(&ifindex).cloned()
    }

    /// All numbers and names.
    #[must_use]
    pub fn all(&self) -> Vec<(u32, String)> {
        self.lock().iter().map(|(&ifindex, name)| (ifindex, name.clone())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

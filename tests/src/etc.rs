//! Files of /etc that a host has to itself: `ip netns exec` puts them over those of the machine.

use std::{fs, path::PathBuf};

use crate::host::Host;

/// A host's own /etc/hosts, removed on drop.
#[derive(Debug)]
pub struct Hosts(PathBuf);

impl Hosts {
    /// For programs that are started in `host` from now on.
    ///
    /// # Panics
    /// Where it cannot be written.
    #[must_use]
    pub fn new(host: &Host, lines: &str) -> Self {
        let folder = PathBuf::from("/etc/netns").join(host.name());
        fs::create_dir_all(&folder).expect("a folder in /etc/netns");
        let hosts = Self(folder);
        hosts.write(lines);
        hosts
    }

    /// Replaces what is in it, in place: that is what running programs see.
    ///
    /// # Panics
    /// Where it cannot be written.
    pub fn write(&self, lines: &str) {
        fs::write(self.0.join("hosts"), lines).expect("cannot write a host's hosts file");
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
        // Where it was the last one; others' stay.
        let _ = fs::remove_dir("/etc/netns");
    }
}

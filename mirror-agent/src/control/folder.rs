//! Where the sockets of running agents are.

use std::path::{Path, PathBuf};

/// The folder with a socket for each running agent, called by the number of its process.
pub const FOLDER: &str = "/run/mirror-agent";

/// The socket of the agent with this process.
#[must_use]
pub fn socket_of(pid: u32) -> PathBuf {
    Path::new(FOLDER).join(format!("{pid}.sock"))
}

/// The sockets in the folder, those of agents that are gone included, in the order of the processes' numbers.
#[must_use]
pub fn sockets() -> Vec<(u32, PathBuf)> {
    let Ok(entries) = std::fs::read_dir(FOLDER) else { return Vec::new() };
    let mut sockets: Vec<_> = entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let pid = path.file_name()?.to_str()?.strip_suffix(".sock")?.parse().ok()?;
            Some((pid, path))
        })
        .collect();
    sockets.sort_unstable();
    sockets
}

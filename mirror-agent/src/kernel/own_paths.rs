//! Tells the hooks from where to where the agent sends, and the agent which of its interfaces have a hook that
//! sees what is sent.

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context as _, Result};
use aya::maps::{HashMap, MapData, MapError};
use mirror_common::{ip, own::Path};

/// The paths that the hooks know. Shared by the sending threads, which add to it when the host's address
/// changes. Nothing is ever taken away: datagrams of an old path may still be on their way.
#[derive(Clone)]
pub struct OwnPaths(Arc<Shared>);

struct Shared {
    map: Mutex<HashMap<MapData, u64, Path>>,
    watched: Mutex<HashSet<u32>>,
}

impl OwnPaths {
    pub(super) fn new(map: HashMap<MapData, u64, Path>) -> Self {
        Self(Arc::new(Shared { map: Mutex::new(map), watched: Mutex::default() }))
    }

    /// The agent is about to send from `source` to `sensor`.
    ///
    /// # Errors
    ///
    /// The map is full: it has room for 512 paths.
    pub fn add(&self, source: IpAddr, sensor: SocketAddr) -> Result<()> {
        let mut map = self.0.map.lock().unwrap_or_else(PoisonError::into_inner);
        // The later fragments of datagrams name no port.
        for port in [sensor.port(), 0] {
            let path = Path {
                source: address(source),
                destination: address(sensor.ip()),
                destination_port: u32::from(port),
            };
            // Each thread comes with the same path. Replacing it would take the element away from under hooks
            // that are reading it.
            const NOEXIST: u64 = 1;
            match map.insert(path.number(), path, NOEXIST) {
                Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::EEXIST) => {
                }
                result => result.context("cannot tell the hooks where the agent sends")?,
            }
        }
        Ok(())
    }

    /// The interface with this number has a hook that sees what is sent.
    pub(super) fn watch(&self, ifindex: u32) {
        self.0.watched.lock().unwrap_or_else(PoisonError::into_inner).insert(ifindex);
    }

    /// It has none any more.
    pub(super) fn unwatch(&self, ifindex: u32) {
        self.0.watched.lock().unwrap_or_else(PoisonError::into_inner).remove(&ifindex);
    }

    /// Whether [`Self::watch`] was said of the interface with this number.
    #[must_use]
    pub fn is_watched(&self, ifindex: u32) -> bool {
        self.0.watched.lock().unwrap_or_else(PoisonError::into_inner).contains(&ifindex)
    }
}

fn address(address: IpAddr) -> ip::Address {
    match address {
        IpAddr::V4(address) => ip::mapped(address.to_bits()),
        IpAddr::V6(address) => {
            let bits = address.to_bits();
            [96, 64, 32, 0].map(|shift| (bits >> shift) as u32)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_as_the_hooks_read_them() {
        assert_eq!(address(IpAddr::from([10, 1, 2, 3])), [0, 0, 0xffff, 0x0a01_0203]);
        let v6 = IpAddr::from([0xfd00, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(address(v6), [0xfd00_0001, 0x0002_0003, 0x0004_0005, 0x0006_0007]);
    }
}

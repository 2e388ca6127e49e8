//! Tells the kernel programs which network an interface's frames are in, where interfaces have networks of their own.

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    maps::{HashMap, MapData},
};

use super::load::take_map;
use crate::encap::tunnel::Tunnel;

/// The networks of the interfaces that are mirrored.
pub struct Vnis {
    map: HashMap<MapData, u32, u32>,
    tunnel: Tunnel,
}

impl Vnis {
    /// For programs that are not attached yet.
    ///
    /// # Errors
    ///
    /// The object has no such map.
    pub fn new(ebpf: &mut Ebpf, tunnel: Tunnel) -> Result<Self> {
        Ok(Self { map: take_map(ebpf, "VNIS")?.try_into()?, tunnel })
    }

    /// Before the hooks of an interface are attached.
    ///
    /// # Errors
    ///
    /// The map is full: it holds 4096 interfaces.
    pub fn tell(&mut self, ifindex: u32, name: &str) -> Result<()> {
        let vni = self.tunnel.vni_of(name);
        self.map.insert(ifindex, vni, 0).with_context(|| format!("cannot give {name} a network of its own"))
    }

    /// After they were.
    pub fn forget(&mut self, ifindex: u32) {
        if let Err(error) = self.map.remove(&ifindex) {
            log::debug!("interface number {ifindex} has no network of its own: {error}");
        }
    }
}

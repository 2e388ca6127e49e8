//! How frames are wrapped, as it was asked for.

use std::{
    fmt::{self, Display, Formatter},
    sync::Arc,
};

use mirror_common::{geneve, vxlan};

use super::outer::Version;
use crate::iface_arg::IfaceArg;

/// The protocol between UDP and a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encap {
    /// RFC 7348.
    Vxlan,
    /// RFC 8926.
    Geneve {
        /// Whether each header has the option that tells time, length, direction and interface.
        has_metadata: bool,
    },
}

impl Encap {
    /// As the command line and the report name it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vxlan => "vxlan",
            Self::Geneve { .. } => "geneve",
        }
    }

    /// UDP port that IANA assigned.
    #[must_use]
    pub const fn port(self) -> u16 {
        match self {
            Self::Vxlan => vxlan::PORT,
            Self::Geneve { .. } => geneve::PORT,
        }
    }

    /// Bytes between UDP and the frame.
    #[must_use]
    pub const fn header_len(self) -> usize {
        match self {
            Self::Vxlan => vxlan::HEADER_LEN,
            Self::Geneve { has_metadata: false } => geneve::BASE_LEN,
            Self::Geneve { has_metadata: true } => geneve::BASE_LEN + geneve::OPTION_LEN,
        }
    }

    /// The longest frame that fits into a datagram.
    #[must_use]
    pub const fn frame_max(self, version: Version) -> usize {
        version.payload_max() - self.header_len()
    }

    /// Whether headers tell when a frame was captured.
    #[must_use]
    pub const fn has_metadata(self) -> bool {
        matches!(self, Self::Geneve { has_metadata: true })
    }
}

/// The protocol, and whose frames are in which network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// The protocol.
    pub encap: Encap,
    /// Network identifier, 24 bits, of what has none of its own.
    pub vni: u32,
    /// The interfaces that may have one.
    pub ifaces: Arc<[IfaceArg]>,
}

impl Tunnel {
    /// With one network for all frames.
    #[must_use]
    pub fn new(encap: Encap, vni: u32) -> Self {
        Self { encap, vni, ifaces: Arc::new([]) }
    }

    /// Whether an interface has a network of its own.
    #[must_use]
    pub fn has_own_vnis(&self) -> bool {
        self.ifaces.iter().any(|iface| iface.vni.is_some())
    }

    /// The network that the interface of this name has of its own.
    #[must_use]
    pub fn own_vni(&self, name: &str) -> Option<u32> {
        // As `Wanted::find` has it: its own name before any pattern.
        let named = self.ifaces.iter().find(|iface| iface.name() == Some(name));
        named.or_else(|| self.ifaces.iter().find(|iface| iface.pattern.matches(name)))?.vni
    }

    /// The network of the interface of this name.
    #[must_use]
    pub fn vni_of(&self, name: &str) -> u32 {
        self.own_vni(name).unwrap_or(self.vni)
    }
}

impl Display for Tunnel {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} vni {}", self.encap.name(), self.vni)?;
        for iface in self.ifaces.iter() {
            if let Some(vni) = iface.vni {
                write!(f, ", {} vni {vni}", iface.pattern)?;
            }
        }
        Ok(())
    }
}

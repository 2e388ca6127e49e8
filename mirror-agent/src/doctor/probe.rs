//! A frame that is followed through the real hooks, to see where traffic stops.

pub mod delivery;
pub mod frame;
pub mod hook;
pub mod inject;
pub mod rig;
pub mod running;
pub mod trail;
pub mod watch;

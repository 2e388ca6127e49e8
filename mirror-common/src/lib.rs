//! What the kernel programs and user space share, written once.
//!
//! A frame's way through these files: its [`headers`] are read, its [`flow`] is a hash of them that picks
//! its ring and its outer source port, [`sample`] and [`budget`] say by that hash whether it is mirrored, [`record`] is how it lies in the ring, [`counters`] is where the
//! kernel counts it, [`own`] is how it knows the agent's own datagrams, and [`vxlan`] or [`geneve`] is what goes in
//! front of it, with a [`checksum`] where there must be one. [`settings`] is what
//! user space tells the kernel programs before they are loaded, and [`transmit`] how the one that sends is given its packets; [`redirect`] is what
//! those of redirect mode are told and tell; [`pool`] is which of several sensors a flow goes to.
#![no_std]
#![deny(unsafe_code)]

pub mod budget;
pub mod bytes;
pub mod checksum;
pub mod counters;
pub mod ethernet;
pub mod flow;
pub mod geneve;
pub mod headers;
pub mod ip;
pub mod own;
#[cfg(feature = "user")]
mod pod;
pub mod pool;
pub mod record;
pub mod redirect;
pub mod sample;
pub mod settings;
pub mod transmit;
pub mod udp;
pub mod vxlan;
pub mod watch;

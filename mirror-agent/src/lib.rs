//! The mirroring agent's library.
//!
//! A frame's way: [`source`] takes it out of a ring or a capture, [`select`] says whether it is mirrored, [`shape`] makes
//! of it what was on the wire, [`encap`] makes what goes in front of it, [`output`]
//! sends it or writes it down; [`worker`] is the thread that it happens on. Beside that way: [`kernel`]
//! (load, attach, detach, maps), [`run`] (the control plane), [`ledger`] (counts), [`report`], [`control`] (how a run is
//! asked), [`flows`] (the busiest, for who asks).

pub mod affinity;
pub mod cli;
pub mod clock;
pub mod completions;
pub mod config;
pub mod console;
pub mod control;
mod descriptors;
pub mod doctor;
pub mod encap;
pub mod filter;
pub mod flows;
pub mod iface_arg;
pub mod invocation;
pub mod kernel;
pub mod ledger;
pub mod limit;
pub mod links;
pub mod man;
pub mod mapping;
pub mod metrics;
pub mod names;
pub mod output;
pub mod pattern;
pub mod pool;
pub mod privileges;
mod redirect;
pub mod report;
pub mod run;
pub mod select;
pub mod sensor;
pub mod service;
pub mod shape;
pub mod signals;
pub mod sink;
pub mod source;
pub mod status;
pub mod stop;
pub mod timings;
pub mod top;
pub mod wanted;
pub mod worker;

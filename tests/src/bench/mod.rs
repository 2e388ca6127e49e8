//! `cargo xtask bench`: mirrors side by side, on one machine, in one run.
//!
//! ```text
//!  client eth0 ---- eth0 router eth1 ---- eth0 sensor
//!  iperf3           ^    the mirror            counts and drops
//!         the generator  processor 1
//!          processor 0
//! ```
//!
//! The generator has the router's `eth0` receive frames, on one processor, as a card's driver does; the mirror
//! that is a program has the other one. What a kernel does for a mirror as it receives a frame (hooks, `tc`,
//! the encapsulation by a VXLAN device) is on the generator's processor, and shows as what the mirror costs
//! the host.
//!
//! | module | what it does |
//! |---|---|
//! | [`options`], [`interrupt`] | the command line; Ctrl-C |
//! | [`place`], [`counters`], [`precedence`] | the three hosts, and what they have counted; ahead of other programs |
//! | [`systems`], [`traffic`] | who mirrors, and what |
//! | [`flat_out`], [`search`], [`tcp`], [`latency`] | the four measurements |
//! | [`run`] | all of them in alternation |
//! | [`results`], [`summary`] | what is written as JSON, and how rounds become one figure |
//! | [`table`], [`chart`] | what people look at |

pub mod chart;
pub mod counters;
pub mod flat_out;
pub mod interrupt;
pub mod latency;
pub mod options;
pub mod place;
pub mod precedence;
pub mod results;
pub mod run;
pub mod search;
pub mod summary;
pub mod systems;
pub mod table;
pub mod tcp;
pub mod traffic;

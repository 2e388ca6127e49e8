//! The mirroring agent's library.

pub mod cli;
pub mod output;
pub mod sink;
pub mod stop;

//! The mirroring agent's library.

pub mod cli;

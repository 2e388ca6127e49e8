//! The command line, as the user typed it.

use clap::{Parser, Subcommand};

use crate::sink::SinkArgs;

#[derive(Debug, Parser)]
#[command(version, about)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Receive mirrored frames: take them out of VXLAN, count them, write them to a capture
    Sink(SinkArgs),
}

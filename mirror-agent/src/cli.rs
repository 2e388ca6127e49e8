//! The command line, as the user typed it.

use clap::Parser;

#[derive(Debug, Parser)]
#[command(version, about)]
pub struct Cli {}

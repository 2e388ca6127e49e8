use clap::Parser as _;
use mirror_agent::cli::Cli;

fn main() {
    let _cli = Cli::parse();
}

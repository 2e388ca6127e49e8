use std::{io::Write as _, process::ExitCode};

use clap::Parser as _;
use mirror_agent::cli::{Cli, Command};

fn main() -> ExitCode {
    let cli = Cli::parse();
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let result = match cli.command {
        Some(Command::Sink(args)) => mirror_agent::sink::run(args),
        None => Ok(()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Not eprintln: a closed standard error is no reason to panic.
            let _ = writeln!(std::io::stderr(), "mirror-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

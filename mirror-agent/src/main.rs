//! The program: what the user typed becomes a run, and what went wrong becomes an exit code.

use std::{io::Write as _, process::ExitCode};

use clap::{
    Parser as _,
    error::{ContextKind, ContextValue, ErrorKind},
};
use log::LevelFilter;
use mirror_agent::{
    cli::{Cli, Command},
    config::Config,
    console,
    filter::dump,
    run, sink,
};

/// Something failed at run time.
const FAILED: u8 = 1;
/// The command line is wrong, as clap has it too.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => return fail(USAGE, &usage_error(&error)),
        // Asked for: the help, or the version.
        Err(error) => error.exit(),
    };
    start_log(&cli);
    let result = match cli.command {
        Some(Command::Sink(args)) => sink::run(args),
        None if cli.mirror.dump_filter => match dump::dump(&cli.mirror) {
            Ok(text) => {
                // Who closes the pipe has seen enough.
                let _ = write!(std::io::stdout(), "{text}");
                Ok(())
            }
            Err(error) => return wrong(&error),
        },
        None => match Config::new(cli.mirror) {
            Ok(config) => run::run(config),
            Err(error) => return wrong(&error),
        },
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(FAILED, &format!("{error:#}")),
    }
}

/// The first paragraph of clap's message, which says what is wrong; the usage that follows is for `--help`.
fn usage_error(error: &clap::Error) -> String {
    if let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidSubcommand) {
        return format!("{word:?} is neither an option nor a subcommand: each capture has its own --read");
    }
    let message = error.to_string();
    if error.kind() == ErrorKind::MissingRequiredArgument && message.contains("--iface") {
        return "nothing to mirror: name an interface (--iface) or a capture (--read), see --help".into();
    }
    let paragraph = message.split("\n\n").next().unwrap_or(&message);
    format!("{} (see --help)", paragraph.trim_start_matches("error: ").trim())
}

/// A wrong command line, of which a filter is shown with the place of its mistake.
fn wrong(error: &str) -> ExitCode {
    console::mistake(error);
    ExitCode::from(USAGE)
}

fn fail(code: u8, error: &str) -> ExitCode {
    console::failure(error);
    ExitCode::from(code)
}

fn start_log(cli: &Cli) {
    let level = match (cli.quiet, cli.verbose) {
        (true, _) => LevelFilter::Error,
        (false, 0) => LevelFilter::Warn,
        (false, 1) => LevelFilter::Info,
        (false, _) => LevelFilter::Debug,
    };
    env_logger::Builder::new()
        // Of libraries warnings are enough, whatever is asked for.
        .filter_level(level.min(LevelFilter::Warn))
        .filter_module("mirror_agent", level)
        .format(|out, record| {
            let level = record.level().as_str().to_ascii_lowercase();
            writeln!(out, "mirror-agent: {level}: {}", record.args())
        })
        .init();
}

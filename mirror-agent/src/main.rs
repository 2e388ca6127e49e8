//! The program: what the user typed becomes a run, and what went wrong becomes an exit code.

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use log::LevelFilter;
use mirror_agent::{
    cli::{Cli, Command},
    completions,
    config::Config,
    console, doctor,
    filter::dump,
    invocation::{Invocation, Refusal, Reload},
    man, run, sink, top,
};

/// Something failed at run time.
const FAILED: u8 = 1;
/// The command line is wrong, as clap has it too.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let invocation = Invocation::of_process();
    // For what is wrong with the rest.
    console::speak(invocation.log_format());
    let asked = match invocation.read() {
        Ok(asked) => asked,
        Err(Refusal::Wrong(errors)) => return fail(USAGE, &errors.join("; ")),
        // Asked for: the help, or the version.
        Err(Refusal::Shown(error)) => error.exit(),
    };
    start_log(&asked.cli);
    let reload = Reload::new(invocation, &asked);
    let result = match asked.cli.command {
        Some(Command::Sink(args)) => sink::run(args),
        Some(Command::Top(args)) => top::run(args),
        Some(Command::Validate(args)) => return validate(args.config),
        Some(Command::Completions(args)) => completions::run(args),
        Some(Command::Man(args)) => match man::check(&args) {
            Ok(()) => man::run(args),
            Err(error) => return wrong(&error),
        },
        Some(Command::Doctor(args)) => match doctor::run(&args) {
            Ok(true) => Ok(()),
            // Said already.
            Ok(false) => return ExitCode::from(FAILED),
            Err(error) => Err(error),
        },
        None if asked.cli.mirror.dump_filter => match dump::dump(&asked.cli.mirror) {
            Ok(text) => {
                // Who closes the pipe has seen enough.
                let _ = write!(std::io::stdout(), "{text}");
                Ok(())
            }
            Err(error) => return wrong(&error),
        },
        None => match Config::new(asked.cli.mirror) {
            Ok(config) => run::run(config, reload),
            Err(error) => return wrong(&error),
        },
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(FAILED, &format!("{error:#}")),
    }
}

/// Says of a configuration file what a start with it would.
fn validate(path: PathBuf) -> ExitCode {
    let name = path.display().to_string();
    let errors = match Invocation::with_file(path).read() {
        Ok(asked) => Config::new(asked.cli.mirror).err().into_iter().collect(),
        Err(Refusal::Wrong(errors)) => errors,
        Err(Refusal::Shown(error)) => vec![error.to_string()],
    };
    if errors.is_empty() {
        // Nobody reads it: as good as said.
        let _ = writeln!(io::stdout(), "{name}: ok");
        return ExitCode::SUCCESS;
    }
    errors.iter().for_each(|error| console::failure(error));
    ExitCode::from(USAGE)
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
    console::speak(cli.log_format);
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
            if console::is_json() {
                return writeln!(
                    out,
                    "{}",
                    console::json(record.level(), record.target(), record.args().to_string())
                );
            }
            let level = record.level().as_str().to_ascii_lowercase();
            writeln!(out, "mirror-agent: {level}: {}", record.args())
        })
        .init();
}

//! `mirror-agent completions`: what a shell has to know to complete the command line.

use std::io::{self, Write as _};

use anyhow::{Context as _, Result};
use clap::{Args, Command, CommandFactory as _};
use clap_complete::Shell;

use crate::cli::Cli;

/// Options of `completions`.
#[derive(Args, Clone, Copy, Debug)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum, value_name = "SHELL")]
    pub shell: Shell,
}

/// Prints the script of a shell.
///
/// # Errors
///
/// Standard output takes no more, unless it was closed: who closes it has seen enough.
pub fn run(args: CompletionsArgs) -> Result<()> {
    match io::stdout().write_all(script(args.shell)?.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to standard output")
        }
        _ => Ok(()),
    }
}

fn script(shell: Shell) -> Result<String> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut shown(Cli::command()), "mirror-agent", &mut script);
    let script = String::from_utf8(script)?;
    Ok(match shell {
        // clap_complete 4.6.11 calls subcommands by two names where the program's own has a hyphen, and completes none.
        Shell::Bash => script.replace("mirror__subcmd__agent", "mirror__agent"),
        _ => script,
    })
}

/// Without what `--help` hides, which the generators would offer.
fn shown(command: Command) -> Command {
    let options = command.get_arguments().filter(|arg| !arg.is_hide_set()).cloned();
    Command::new("mirror-agent")
        .about(command.get_about().cloned().unwrap_or_default())
        .version(env!("CARGO_PKG_VERSION"))
        .args(options)
        .subcommands(command.get_subcommands().cloned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use clap::ValueEnum as _;

    use super::*;

    #[test]
    fn every_shell_is_told_of_every_option_that_is_shown() {
        for shell in Shell::value_variants() {
            let script = script(*shell).unwrap();
            for arg in Cli::command().get_arguments() {
                let Some(long) = arg.get_long() else { continue };
                let is_there =
                    [format!("--{long}"), format!("-l {long} ")].iter().any(|word| script.contains(word));
                assert_eq!(is_there, !arg.is_hide_set(), "{shell}: --{long}");
            }
            for subcommand in Cli::command().get_subcommands() {
                assert!(script.contains(subcommand.get_name()), "{shell}: {}", subcommand.get_name());
            }
        }
    }
}

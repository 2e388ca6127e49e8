//! `mirror-agent man`: the manual's pages, one of the program and one of each subcommand.
//!
//! Options are what the command line's definition says; [`sections`] has what it cannot say.

mod sections;

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use clap::{Args, Command, CommandFactory as _};
use clap_mangen::{
    Man,
    roff::{Roff, bold, roman},
};

use self::sections::{Block, Section};
use crate::cli::Cli;

/// The manual's part for what administrators run.
const PART: &str = "8";

/// When the pages last said something else than the command line's definition makes them say.
const DATE: &str = "2026-11-24";

/// What the program is, as whatis(1) shows it.
const ABOUT: &str = "mirror network traffic or captures to sensors in VXLAN or GENEVE";

/// The ways to call the program, which the list of all its options would hide.
const USAGE: &str = "mirror-agent [OPTIONS] -i NAME... [-d HOST]... [FILTER...]
mirror-agent [OPTIONS] -r FILE... [-d HOST]... [FILTER...]
mirror-agent [OPTIONS] -i NAME...|-r FILE... -w FILE [FILTER...]
mirror-agent --config FILE [OPTIONS]
mirror-agent SUBCOMMAND [OPTIONS]";

/// Options of `man`.
#[derive(Args, Debug)]
pub struct ManArgs {
    /// The subcommand whose page is printed [default: the program's own page]
    #[arg(value_name = "SUBCOMMAND", conflicts_with = "dir")]
    pub subcommand: Option<String>,
    /// Write all pages into this folder instead, which is made where it is not there
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// Prints or writes what was asked for.
///
/// # Errors
///
/// A page or a folder cannot be written.
pub fn run(args: ManArgs) -> Result<()> {
    if let Some(dir) = args.dir {
        return write_all(&dir);
    }
    let program = program();
    let page = match &args.subcommand {
        None => page(&program)?,
        Some(name) => page(program.find_subcommand(name).context(no_such(&program, name))?)?,
    };
    match io::stdout().write_all(&page) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to standard output")
        }
        _ => Ok(()),
    }
}

/// Says what is wrong with the command line, before anything is written.
///
/// # Errors
///
/// One line: there is no such subcommand.
pub fn check(args: &ManArgs) -> Result<(), String> {
    let program = program();
    match &args.subcommand {
        Some(name) if program.find_subcommand(name).is_none() => Err(no_such(&program, name)),
        _ => Ok(()),
    }
}

fn no_such(program: &Command, name: &str) -> String {
    let names: Vec<_> = subcommands(program).map(Command::get_name).collect();
    format!("{name:?} is no subcommand, there are {}", names.join(", "))
}

/// The command line's definition, complete.
fn program() -> Command {
    let mut program = Cli::command().disable_help_subcommand(true);
    program.build();
    program
}

fn subcommands(program: &Command) -> impl Iterator<Item = &Command> {
    program.get_subcommands().filter(|subcommand| !subcommand.is_hide_set())
}

fn write_all(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make the folder {}", dir.display()))?;
    let program = program();
    for command in std::iter::once(&program).chain(subcommands(&program)) {
        let path = dir.join(format!("{}.{PART}", title(command)));
        fs::write(&path, page(command)?).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// What a page is called: the program's name, and the subcommand's behind it.
fn title(command: &Command) -> &str {
    command.get_display_name().unwrap_or_else(|| command.get_name())
}

fn page(command: &Command) -> Result<Vec<u8>> {
    let is_program = command.get_name() == title(command);
    let mut described = command.clone();
    if is_program {
        described = described.override_usage(USAGE).about(ABOUT);
    }
    let man = Man::new(described)
        .date(DATE)
        .title(title(command).to_uppercase())
        .section(PART)
        .source(format!("mirror-agent {}", env!("CARGO_PKG_VERSION")))
        .manual("mirror-agent");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    let mut options = Vec::new();
    man.render_options_section(&mut options)?;
    page.extend(String::from_utf8(options)?.replace(".br\n\n.br\n", ".sp\n").into_bytes());
    if is_program {
        man.render_subcommands_section(&mut page)?;
    }
    let name = (!is_program).then(|| command.get_name());
    for section in sections::of(name) {
        render(&section).to_writer(&mut page)?;
    }
    see_also(command, is_program).to_writer(&mut page)?;
    Ok(page)
}

fn render(section: &Section) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", [section.title]);
    for (index, block) in section.blocks.iter().enumerate() {
        // A heading begins a paragraph.
        if index > 0 && !matches!(block, Block::Term(..)) {
            roff.control("PP", []);
        }
        match block {
            Block::Text(text) => {
                roff.text([roman(*text)]);
            }
            Block::Term(term, text) => {
                roff.control("TP", []);
                roff.text([bold(*term)]);
                roff.text([roman(*text)]);
            }
            Block::Example(what, lines) => {
                roff.text([roman(*what)]);
                roff.control("PP", []);
                roff.control("RS", ["4"]);
                roff.control("nf", []);
                for line in lines.lines() {
                    roff.text([roman(line)]);
                }
                roff.control("fi", []);
                roff.control("RE", []);
            }
        }
    }
    roff
}

fn see_also(command: &Command, is_program: bool) -> Roff {
    let program = program();
    let mut pages: Vec<(String, &str)> = Vec::new();
    if is_program {
        pages.extend(subcommands(&program).map(|subcommand| (title(subcommand).to_owned(), PART)));
    } else {
        pages.push((title(&program).to_owned(), PART));
    }
    let others = sections::see_also(if is_program { None } else { Some(command.get_name()) });
    pages.extend(others.iter().map(|(name, part)| ((*name).to_owned(), *part)));
    let mut roff = Roff::new();
    roff.control("SH", ["SEE ALSO"]);
    let mut words = Vec::new();
    for (index, (name, part)) in pages.iter().enumerate() {
        if index > 0 {
            words.push(roman(", "));
        }
        words.extend([bold(name.as_str()), roman(format!("({part})"))]);
    }
    roff.text(words);
    roff
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn text(command: &Command) -> String {
        String::from_utf8(page(command).unwrap()).unwrap()
    }

    #[test]
    fn every_page_has_its_sections() {
        let program = program();
        let of_program = text(&program);
        for title in ["ENVIRONMENT", "FILES", "SIGNALS", "SUBCOMMANDS"] {
            assert!(of_program.contains(&format!(".SH {title}\n")), "{title}");
        }
        for command in std::iter::once(&program).chain(subcommands(&program)) {
            let text = text(command);
            for section in ["NAME", "SYNOPSIS", "OPTIONS", "\"EXIT STATUS\"", "EXAMPLES", "\"SEE ALSO\""] {
                let has = text.contains(&format!(".SH {section}\n"));
                assert!(has, "{}: no {section}: add it to man/sections.rs\n{text}", title(command));
            }
        }
    }

    #[test]
    fn every_option_that_is_shown_is_on_its_page_and_no_other() {
        let program = program();
        for command in std::iter::once(&program).chain(subcommands(&program)) {
            let text = text(command);
            for arg in command.get_arguments() {
                let Some(long) = arg.get_long() else { continue };
                let term = format!("\\fB\\-\\-{}\\fR", long.replace('-', "\\-"));
                assert_eq!(text.contains(&term), !arg.is_hide_set(), "{}: --{long}", title(command));
            }
        }
    }

    #[test]
    fn names_what_there_is_instead_of_what_there_is_not() {
        let args = ManArgs { subcommand: Some("snik".into()), dir: None };
        let error = check(&args).unwrap_err();
        assert!(error.contains("\"snik\"") && error.contains("sink"), "{error}");
    }
}

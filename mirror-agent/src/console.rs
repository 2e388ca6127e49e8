//! Talking to people on standard error, and to programs on standard output.

use std::{
    fmt,
    io::{self, Write as _},
};

use anyhow::{Context as _, Result};
use log::LevelFilter;
use serde::Serialize;

use crate::cli::ReportForm;

/// A line for people on standard error, unless `-q` asks for errors only.
pub fn notice(line: fmt::Arguments<'_>) {
    if log::max_level() > LevelFilter::Error {
        standard_error(line);
    }
}

/// Where standard error is closed, nobody wants to hear: no reason to panic as `eprintln` does.
fn standard_error(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// The one line that says why the program failed. An error's causes may have several.
pub fn failure(error: &str) {
    let line = error.lines().map(str::trim).collect::<Vec<_>>().join(" ");
    standard_error(format_args!("mirror-agent: {line}"));
}

/// As [`failure`], of what the user wrote, which may be shown in lines of its own.
pub fn mistake(error: &str) {
    standard_error(format_args!("mirror-agent: {error}"));
}

/// Prints a final report where its form belongs: `text` on standard error, JSON on standard output, or,
/// where a capture went there, on standard error too.
///
/// # Errors
///
/// Standard output takes no more, unless it was closed: who closes it wants no report.
pub fn report<R: Serialize>(
    report: &R,
    text: impl fmt::Display,
    form: ReportForm,
    stdout_is_capture: bool,
) -> Result<()> {
    if form == ReportForm::Text {
        notice(format_args!("{text}"));
        return Ok(());
    }
    let json = serde_json::to_string(report).context("cannot make the report")?;
    if stdout_is_capture {
        standard_error(format_args!("{json}"));
        return Ok(());
    }
    let mut out = io::stdout().lock();
    match writeln!(out, "{json}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write the report to standard output")
        }
        _ => Ok(()),
    }
}

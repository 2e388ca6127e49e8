//! Talking to people on standard error, and to programs on standard output.

use std::{
    fmt,
    io::{self, IsTerminal as _, Write as _},
    sync::atomic::{AtomicBool, Ordering},
    time::SystemTime,
};

use anyhow::{Context as _, Result};
use log::{Level, LevelFilter};
use serde::Serialize;

use crate::cli::{LogFormat, ReportForm};

/// Whether each line on standard error is a JSON object.
static IS_JSON: AtomicBool = AtomicBool::new(false);

/// What is said that no line of the log says.
const TARGET: &str = "mirror_agent";

/// One line of the log, as programs read it.
#[derive(Serialize)]
struct Line<'a> {
    /// RFC 3339, in UTC.
    time: String,
    level: String,
    target: &'a str,
    message: String,
}

/// Says from now on everything on standard error in this form.
pub fn speak(form: LogFormat) {
    // Set in every container of a pod: kubernetes.io, "Discovering services".
    let is_in_pod = || std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
    let is_json = match form {
        LogFormat::Auto => is_in_pod() && !io::stderr().is_terminal(),
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    IS_JSON.store(is_json, Ordering::Relaxed);
}

/// Whether each line on standard error is a JSON object.
#[must_use]
pub fn is_json() -> bool {
    IS_JSON.load(Ordering::Relaxed)
}

/// A line of the log as a JSON object.
#[must_use]
pub fn json(level: Level, target: &str, message: String) -> String {
    let line = Line {
        time: humantime::format_rfc3339_micros(SystemTime::now()).to_string(),
        level: level.as_str().to_ascii_lowercase(),
        target,
        message,
    };
    // Of strings alone, which always become JSON.
    serde_json::to_string(&line).unwrap_or_default()
}

/// A line for people on standard error, unless `-q` asks for errors only.
pub fn notice(line: fmt::Arguments<'_>) {
    if log::max_level() > LevelFilter::Error {
        if is_json() {
            standard_error(format_args!("{}", json(Level::Info, TARGET, line.to_string())));
        } else {
            standard_error(line);
        }
    }
}

/// Where standard error is closed, nobody wants to hear: no reason to panic as `eprintln` does.
fn standard_error(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// The one line that says why the program failed. An error's causes may have several.
pub fn failure(error: &str) {
    failed(&error.lines().map(str::trim).collect::<Vec<_>>().join(" "));
}

/// As [`failure`], of what the user wrote, which may be shown in lines of its own.
pub fn mistake(error: &str) {
    failed(error);
}

fn failed(error: &str) {
    if is_json() {
        standard_error(format_args!("{}", json(Level::Error, TARGET, error.to_owned())));
    } else {
        standard_error(format_args!("mirror-agent: {error}"));
    }
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

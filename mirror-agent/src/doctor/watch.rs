//! `--watch`: counters that grow.

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Serialize;

use super::{
    check::{Check, Counter},
    host::Host,
};
use crate::{console, signals};

/// What is said of a counter that grew.
#[derive(Debug, Serialize)]
struct Growth<'a> {
    /// Unix time in seconds.
    time: f64,
    check: &'static str,
    counter: &'a str,
    growth: u64,
    per_second: f64,
    value: u64,
    why: &'static str,
}

/// Looks each `interval`, until a signal, and says what has grown.
///
/// # Errors
///
/// Standard output takes no more, unless it was closed.
pub fn watch(host: &Host, checks: &[&'static Check], interval: Duration, as_json: bool) -> Result<()> {
    let stop = signals::on_signals()?;
    let mut before = counters(host, checks);
    let mut looked = Instant::now();
    console::notice(format_args!(
        "watching {} counters every {}",
        before.len(),
        humantime::format_duration(interval)
    ));
    loop {
        let timeout = PollTimeout::try_from(interval).unwrap_or(PollTimeout::MAX);
        let signalled = poll(&mut [PollFd::new(stop, PollFlags::POLLIN)], timeout);
        if signalled.is_ok_and(|count| count > 0) {
            return Ok(());
        }
        let now = counters(host, checks);
        let passed = looked.elapsed();
        looked = Instant::now();
        match tell(&before, &now, passed, as_json) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            result => result.context("cannot write to standard output")?,
        }
        before = now;
    }
}

type Counters = BTreeMap<(&'static str, String), Counter>;

/// What cannot be read is left out: of an interface that is gone, say.
fn counters(host: &Host, checks: &[&'static Check]) -> Counters {
    let read = |check: &&'static Check| {
        let counters = check.counters.and_then(|read| read(host).ok()).unwrap_or_default();
        counters.into_iter().map(|counter| ((check.id, counter.name.clone()), counter))
    };
    checks.iter().flat_map(read).collect()
}

fn tell(before: &Counters, now: &Counters, passed: Duration, as_json: bool) -> io::Result<()> {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let mut out = io::stdout().lock();
    for ((check, name), counter) in now {
        let Some(old) = before.get(&(check, name.clone())) else { continue };
        let growth = counter.value.saturating_sub(old.value);
        if growth == 0 {
            continue;
        }
        let per_second = growth as f64 / passed.as_secs_f64();
        if as_json {
            let growth = Growth {
                time,
                check,
                counter: name,
                growth,
                per_second,
                value: counter.value,
                why: counter.why,
            };
            serde_json::to_writer(&mut out, &growth)?;
            writeln!(out)?;
        } else {
            let at = humantime::format_rfc3339_seconds(SystemTime::now());
            writeln!(out, "{at} {check}: {name} +{growth} ({per_second:.0}/s): {}", counter.why)?;
        }
    }
    out.flush()
}

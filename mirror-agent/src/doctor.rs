//! `mirror-agent doctor`: what of this host stands in a mirror's way, why, and the command that mends it.
//!
//! [`host`] is what is looked at, [`checks`] has a file for each check, [`finding`] is what one says. [`report`] tells,
//! [`fix`] runs the commands, [`watch`] shows counters that grow. Works with no agent running, and beside one.

mod agents;
mod answer;
mod args;
mod buffers;
pub mod capability;
pub mod cgroup;
pub mod check;
pub mod checks;
pub mod ethtool;
pub mod facts;
pub mod finding;
mod firewall;
mod fix;
pub mod host;
mod next_hop;
mod others;
mod probe;
mod processes;
pub mod program;
mod report;
pub mod route;
mod sockets;
pub mod sysctl;
mod udp_counters;
mod watch;

use std::io::{self, Write as _};

use anyhow::{Context as _, Result};

pub use self::args::DoctorArgs;
use self::{check::Check, finding::Status, host::Host, report::Report};

/// Looks, and says what was found. Returns whether no check failed.
///
/// # Errors
///
/// The host cannot be asked at all, an interface that was named is not there, or nobody takes what is to be said.
pub fn run(args: &DoctorArgs) -> Result<bool> {
    if args.list {
        return list().context("cannot write to standard output").map(|()| true);
    }
    let checks = args.checks();
    let host = Host::look(args)?;
    if let Some(interval) = args.watch {
        return watch::watch(&host, &checks, interval, args.json).map(|()| true);
    }
    let mut report = Report::new(&host, &checks);
    if args.fix {
        let done = fix::apply(&report);
        // As it is now.
        report = Report::new(&Host::look(args)?, &checks);
        report.fixed = Some(done);
    }
    report.print(args.json).context("cannot write to standard output")?;
    let has_failed = report.fixed.iter().flatten().any(|done| done.error.is_some());
    Ok(report.status != Status::Fail && !has_failed)
}

/// The checks that there are, a line each.
fn list() -> io::Result<()> {
    let mut out = io::stdout().lock();
    for Check { id, title, .. } in checks::ALL {
        // Who closes the pipe has seen enough.
        match writeln!(out, "{id:<20} {title}") {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            result => result?,
        }
    }
    Ok(())
}

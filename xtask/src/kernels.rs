//! Runs end-to-end tests on kernels that this machine does not run, each in a small emulated machine.

mod cpio;
mod kernel;
mod payload;
mod result;
mod selection;
pub mod suite;
mod table;
mod vm;

use std::{
    fs,
    path::PathBuf,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use anyhow::{Context as _, Result, bail};

pub use self::suite::KEYRING;
use self::{
    kernel::{Kernel, SUITES},
    result::Results,
    table::{Outcome, Table},
};
use crate::{agent, packages, project};

/// Whether this machine has the processor that the kernels are for.
pub const IS_POSSIBLE: bool = cfg!(target_arch = "x86_64");
/// Lines of the kernel's last words that are shown where a machine stopped early.
const LAST_WORDS: usize = 15;

/// What is kept between runs, and what the last run said.
fn folder() -> PathBuf {
    project::target().join("kernels")
}

/// Builds everything and runs the selected tests on every kernel; with `filter`, those whose name contains it; with
/// `in_brief`, those of the paths on the oldest kernel, and whether frames arrive on the others. Prints a table of the results.
///
/// # Errors
///
/// A test failed, or a kernel or what runs it cannot be got.
pub fn test(filter: &str, in_brief: bool) -> Result<()> {
    if !IS_POSSIBLE {
        bail!("the tests on other kernels run on x86-64 only");
    }
    packages::ensure_for_kernels()?;
    let folder = folder();
    fs::create_dir_all(&folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    agent::build()?;
    let of_oldest = payload::archive(if in_brief { selection::PATHS } else { selection::SELECTED }, filter)?;
    let of_others = if in_brief { Some(payload::archive(selection::FRAMES, filter)?) } else { None };
    let payload_of = |index| match &of_others {
        Some(frames) if index > 0 => frames,
        _ => &of_oldest,
    };

    // Each has one thread of QEMU's.
    let workers = thread::available_parallelism().map_or(1, usize::from).min(SUITES.len());
    let (next, outcomes) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    // The first one has most to do.
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(suite) = SUITES.get(index) else { return };
                    let (name, outcome) = match on(suite, payload_of(index)) {
                        Ok((name, results)) => (name, Outcome::Ran(results)),
                        Err(error) => (format!("of {suite}"), Outcome::NotToBeHad(format!("{error:#}"))),
                    };
                    // Poisoned only where another worker panicked, which ends the scope too.
                    if let Ok(mut outcomes) = outcomes.lock() {
                        outcomes.push((index, (name, outcome)));
                    }
                }
            });
        }
    });
    let mut outcomes = outcomes.into_inner().unwrap_or_default();
    outcomes.sort_by_key(|(index, _)| *index);
    let outcomes: Vec<_> = outcomes.into_iter().map(|(_, outcome)| outcome).collect();
    println!("{}", Table(&outcomes));
    let good = outcomes.iter().filter(|(_, outcome)| outcome.is_good()).count();
    if good != SUITES.len() {
        bail!("{good} of {} kernels passed: target/kernels has what the tests said", SUITES.len());
    }
    Ok(())
}

/// Runs the tests on the kernel of a suite; gives its name and the results.
fn on(suite: &str, payload: &[u8]) -> Result<(String, Results)> {
    let kernel = Kernel::of(suite)?;
    let run = vm::run(&kernel, payload)?;
    let results = Results::read(&run.output);
    let took = results.seconds.map_or_else(String::new, |seconds| format!(" in {seconds:.0} s of its own"));
    eprintln!("test: kernel {} ended{took}", kernel.release);
    if !results.is_good() {
        eprintln!("--- {}:\n{}---", run.path.display(), run.output);
    }
    if results.seconds.is_none() {
        let lines: Vec<_> = run.console.lines().collect();
        let last = lines.len().saturating_sub(LAST_WORDS);
        eprintln!("--- the last of kernel {}:\n{}\n---", kernel.release, lines[last..].join("\n"));
    }
    Ok((kernel.release, results))
}

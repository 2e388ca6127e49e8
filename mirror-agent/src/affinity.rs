//! Which processors threads run on, and before whom.

use std::io;

use anyhow::{Result, anyhow};
use aya::util::nr_cpus;
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

/// The processors that this process may use, ascending.
///
/// # Errors
///
/// What `sched_getaffinity` says.
pub fn allowed() -> nix::Result<Vec<usize>> {
    let set = sched_getaffinity(Pid::from_raw(0))?;
    Ok((0..CpuSet::count()).filter(|&cpu| set.is_set(cpu).unwrap_or(false)).collect())
}

/// How many processors there may ever be: the kernel has counters for each.
///
/// # Errors
///
/// /sys does not say.
pub fn possible() -> Result<usize> {
    nr_cpus().map_err(|(path, error)| anyhow!("cannot count the processors: {path}: {error}"))
}

/// Keeps the calling thread on one processor.
///
/// # Errors
///
/// What `sched_setaffinity` says, such as a processor that was taken away meanwhile.
pub fn pin(cpu: usize) -> nix::Result<()> {
    pin_to(&[cpu])
}

/// Keeps the calling thread on some processors.
///
/// # Errors
///
/// As for [`pin`].
pub fn pin_to(cpus: &[usize]) -> nix::Result<()> {
    let mut set = CpuSet::new();
    for &cpu in cpus {
        set.set(cpu)?;
    }
    sched_setaffinity(Pid::from_raw(0), &set)
}

/// Lets the calling thread run before the host's ordinary programs. It has milliseconds until its ring is
/// full, and under load it is the busy programs' own traffic that it has to keep up with; where it waits
/// for its turn behind them, it loses frames. (Autogroups and cgroups bound how far it counts, see
/// sched(7).) It never takes more than its one processor, and sleeps when
/// there is no traffic. The same goes for the thread that follows the host's interfaces: one that
/// comes is to be mirrored at once.
///
/// # Errors
///
/// No right to: it takes `CAP_SYS_NICE`.
pub fn take_precedence() -> io::Result<()> {
    const NICE: i32 = -15;
    // SAFETY: setpriority takes three integers; 0 is the calling thread.
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

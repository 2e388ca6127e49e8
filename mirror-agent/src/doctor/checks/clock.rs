//! The host's clock: how much it costs to read it, and, where frames tell their time, whether it is right.

use std::fs;

use anyhow::Result;

use crate::doctor::{check::Check, finding::Finding, host::Host};

/// See the module.
pub const CHECK: Check =
    Check { id: "clock", title: "the clock that each frame's time is read from", look, counters: None };

const FOLDER: &str = "/sys/devices/system/clocksource/clocksource0";

/// Those that are read by the processor itself, in some nanoseconds.
const FAST: [&str; 6] =
    ["tsc", "kvm-clock", "hyperv_clocksource_tsc_page", "arch_sys_counter", "timebase", "tod"];

fn look(host: &Host) -> Result<Vec<Finding>> {
    let read =
        |name: &str| fs::read_to_string(format!("{FOLDER}/{name}")).unwrap_or_default().trim().to_owned();
    let mut findings = vec![source(&read("current_clocksource"), &read("available_clocksource"))];
    findings.push(if host.encap.has_metadata() {
        synchronised()
    } else {
        Finding::ok(
            "frames tell no time: the sensor goes by the time of arrival, and this clock need not be right",
        )
    });
    Ok(findings)
}

fn source(current: &str, available: &str) -> Finding {
    let found = format!("the clock source is {current}");
    if current.is_empty() || FAST.contains(&current) || current.starts_with("xen") {
        return Finding::ok(found);
    }
    let why = "the hooks read the clock for each frame, and this one takes a microsecond or more";
    let finding = Finding::warn(found, why);
    match FAST.iter().find(|fast| available.split(' ').any(|one| one == **fast)) {
        Some(fast) => {
            let set = |source: &str| format!("echo {source} > {FOLDER}/current_clocksource");
            finding.mend(set(fast), set(current))
        }
        // The kernel has found it unfit.
        None => finding,
    }
}

fn synchronised() -> Finding {
    // SAFETY: all-zero is a valid timex, which asks for nothing to be changed.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the call writes the struct that it is given.
    let state = unsafe { libc::adjtimex(&raw mut timex) };
    judge(state >= 0 && timex.status & libc::STA_UNSYNC == 0)
}

fn judge(is_synchronised: bool) -> Finding {
    if is_synchronised {
        return Finding::ok("the clock is synchronised");
    }
    let why = "GENEVE's option tells each frame's time by this clock: beside other hosts' mirrors it is off by as much as the \
               clock";
    Finding::note("the clock is not synchronised", why)
        .mend("timedatectl set-ntp true", "timedatectl set-ntp false")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Status;

    #[test]
    fn slow_sources_are_told_with_a_better_one() {
        assert_eq!(source("tsc", "tsc hpet").status, Status::Ok);
        assert_eq!(source("", "").status, Status::Ok);
        let slow = source("hpet", "tsc hpet acpi_pm");
        assert_eq!(slow.status, Status::Warn);
        assert_eq!(slow.fix, [format!("echo tsc > {FOLDER}/current_clocksource")]);
        assert_eq!(slow.undo, [format!("echo hpet > {FOLDER}/current_clocksource")]);
        assert!(source("acpi_pm", "acpi_pm").fix.is_empty());
    }

    #[test]
    fn a_clock_that_nobody_sets_is_told() {
        assert_eq!(judge(true).status, Status::Ok);
        assert_eq!(judge(false).status, Status::Note);
    }
}

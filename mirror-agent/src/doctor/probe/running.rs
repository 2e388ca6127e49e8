//! Through a running agent: its own hook, its own books.

use std::{
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use mirror_common::record::Direction;

use super::{
    hook::{self, way_of},
    trail::Trail,
};
use crate::{
    control::client::Agent,
    doctor::{finding::Finding, host::Host, others, processes::Process},
    ledger::Ledger,
    links::Link,
    status::{Status, Traffic},
};

/// How long a frame may take from the hook to the books.
const TIME: Duration = Duration::from_millis(600);

/// Between two questions.
const PERIOD: Duration = Duration::from_millis(20);

/// What a running agent says of itself, where it can be asked.
#[must_use]
pub fn ask(pid: u32) -> Option<Status> {
    Agent::by_process(pid).status().ok()
}

/// Follows a frame through the hook of a running agent. It is mirrored as any other: one small frame more at the sensor.
///
/// # Errors
///
/// It cannot be followed.
pub fn follow(host: &Host, link: &Link, pid: u32, direction: Direction) -> Result<Finding> {
    let mut trail = Trail::new(format!("{} {}, agent {pid}", link.name, way_of(direction)));
    let side = way_of(direction);
    let Some(before) = ask(pid) else {
        let found =
            format!("agent {pid} mirrors it and cannot be asked: no frame was sent through its {side} hook");
        return Ok(Finding::note(found, "").about(&link.name));
    };
    if before.report.hook == "xdp" {
        let found = format!(
            "agent {pid} is on the XDP hook, which a driver runs by itself: no frame was sent {side}"
        );
        return Ok(Finding::note(found, "only what the network sends meets it").about(&link.name));
    }
    if !others::has_hook(host, link, direction)? {
        let found = format!("agent {pid} has no program on the {side} hook: no frame was sent there");
        return Ok(Finding::note(found, "it was told so (--direction), or is about to attach it again")
            .about(&link.name));
    }
    let in_front = others::in_front(host, link, direction)?;
    let frame = hook::frame(host, link, direction)?;
    if let Some(finding) = hook::put(&mut trail, link, direction, &frame)? {
        return Ok(finding);
    }
    let deadline = Instant::now() + TIME;
    let (mut seen, mut now) = (0, before.clone());
    while Instant::now() < deadline {
        thread::sleep(PERIOD);
        now = ask(pid).unwrap_or(now);
        seen = traffic(&now, link, direction).frames.saturating_sub(traffic(&before, link, direction).frames);
        let is_booked = !changes(&before.report.frames, &now.report.frames).is_empty();
        if seen > 0 && is_booked {
            break;
        }
    }
    if seen == 0 {
        let reason = match &in_front[..] {
            [] => format!(
                "the program of agent {pid} is not on the hook any more, or another kind of hook has the frame"
            ),
            all => format!(
                "in front of the agent's program there is {}, which ends the chain",
                others::list(all)
            ),
        };
        let finding = restart(Finding::fail(reason, ""), pid, &now);
        return Ok(trail.stopped_by("seen by the agent's hook", finding));
    }
    trail.pass("seen by the agent's hook");
    let changes = changes(&before.report.frames, &now.report.frames);
    let more = if seen > 1 { format!(" ({seen} frames at that time)") } else { String::new() };
    let list: Vec<_> = changes.iter().map(|(name, count)| format!("{name} +{count}")).collect();
    let books = format!("in the agent's books{more}: {}", list.join(", "));
    let has = |name: &str| changes.iter().any(|(changed, _)| *changed == name);
    Ok(match &changes[..] {
        [] => {
            trail.stopped("in the agent's books", "it waits in a ring: is the agent overloaded, or stopped?")
        }
        _ if has("sent") => {
            trail.pass(books);
            trail.arrived()
        }
        _ if ["filtered", "sampled_out", "rate_limited", "own"].iter().any(|name| has(name)) => {
            trail.pass(books);
            trail.noted(
                "the agent leaves it out, as it was told to",
                "what a filter or a rate leaves out is not lost",
            )
        }
        [(name, _), ..] => trail.stopped("sent by the agent", &format!("{name}: see the check agent")),
    })
}

fn traffic(status: &Status, link: &Link, direction: Direction) -> Traffic {
    let of_link = status.interfaces.iter().find(|interface| interface.ifindex == link.ifindex);
    of_link.map_or(Traffic::default(), |interface| match direction {
        Direction::Ingress => interface.ingress,
        Direction::Egress => interface.egress,
    })
}

/// What came to be counted, by name.
fn changes(before: &Ledger, now: &Ledger) -> Vec<(&'static str, u64)> {
    let names = |ledger: &Ledger| {
        [
            ("sent", ledger.sent),
            ("filtered", ledger.filtered),
            ("sampled_out", ledger.sampled_out),
            ("rate_limited", ledger.rate_limited),
            ("own", ledger.own),
            ("ring_full", ledger.ring_full),
            ("copy_failed", ledger.copy_failed),
            ("too_big", ledger.too_big),
            ("send_failed", ledger.send_failed),
        ]
    };
    let pairs = names(now).into_iter().zip(names(before));
    pairs
        .map(|((name, now), (_, before))| (name, now.saturating_sub(before)))
        .filter(|(_, growth)| *growth > 0)
        .collect()
}

/// Adds what starts an agent anew: it attaches in front of everybody else.
pub fn restart(finding: Finding, pid: u32, status: &Status) -> Finding {
    let process = Process::find(pid);
    if let Some(unit) = process.as_ref().and_then(Process::unit) {
        return finding.mend(format!("systemctl restart {unit}"), "");
    }
    start_in_place(finding, pid, &status.arguments)
}

/// Adds what starts an agent anew with another value for an option.
pub fn restart_with(finding: Finding, status: &Status, option: &str, value: &str) -> Finding {
    let mut arguments = status.arguments.clone();
    let (joined, apart) = (format!("{option}="), arguments.iter().position(|word| word == option));
    if let Some(at) = apart
        && let Some(old) = arguments.get_mut(at + 1)
    {
        *old = value.into();
    } else if let Some(old) = arguments.iter_mut().find(|word| word.starts_with(&joined)) {
        *old = format!("{joined}{value}");
    } else {
        // In front: a filter takes all that follows it.
        arguments.splice(0..0, [option.to_owned(), value.to_owned()]);
    }
    start_in_place(finding, status.pid, &arguments)
}

fn start_in_place(finding: Finding, pid: u32, arguments: &[String]) -> Finding {
    let program =
        std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_else(|_| PathBuf::from("mirror-agent"));
    let program = program.display().to_string();
    let words: Vec<_> = std::iter::once(&program).chain(arguments).map(|word| quoted(word)).collect();
    finding.mend(format!("kill {pid}"), "").mend(words.join(" "), "")
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,=+@%".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.into()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_where_a_shell_would_change_them() {
        for (word, expected) in [("eth0", "eth0"), ("veth*", "'veth*'"), ("it's", r"'it'\''s'"), ("", "''")] {
            assert_eq!(quoted(word), expected);
        }
    }

    #[test]
    fn an_option_has_another_value() {
        let finding = |arguments: &[&str]| {
            let arguments = arguments.iter().map(|word| (*word).to_owned()).collect();
            let status = Status { pid: u32::MAX, arguments, ..Status::default() };
            restart_with(Finding::fail("", ""), &status, "--ring-size", "64MiB").fix
        };
        let kill = format!("kill {}", u32::MAX);
        for (arguments, expected) in [
            (&["-i", "eth0", "tcp"][..], "mirror-agent --ring-size 64MiB -i eth0 tcp"),
            (&["--ring-size", "1MiB", "-i", "eth0"], "mirror-agent --ring-size 64MiB -i eth0"),
            (&["-i", "eth0", "--ring-size=1MiB"], "mirror-agent -i eth0 --ring-size=64MiB"),
        ] {
            assert_eq!(finding(arguments), [kill.clone(), expected.into()]);
        }
    }

    #[test]
    fn books_that_changed_are_named() {
        let before = Ledger { sent: 7, own: 1, ..Ledger::default() };
        let now = Ledger { sent: 8, own: 1, ring_full: 2, ..before };
        assert_eq!(changes(&before, &now), [("sent", 1), ("ring_full", 2)]);
    }
}

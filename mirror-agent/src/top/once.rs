//! One table on standard output, for scripts.

use std::{
    io::{self, ErrorKind, Write as _},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{
    keys::{FlowOrder, InterfaceOrder},
    moment::{Moment, View},
    sections::{Sections, State},
    style::Look,
};
use crate::control::client::Agent;

/// Wide enough for all columns.
const WIDTH: usize = 120;

/// Looks twice, `interval` apart, and prints what passed in between.
///
/// # Errors
///
/// The agent does not answer.
pub fn run(agent: &Agent, interval: Duration) -> Result<()> {
    let first = View::next(None, look(agent)?);
    thread::sleep(interval);
    let view = View::next(Some(first), look(agent)?);
    match io::stdout().write_all(text(&view).as_bytes()) {
        // Who closes the pipe has seen enough.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("cannot write"),
        _ => Ok(()),
    }
}

fn look(agent: &Agent) -> Result<Moment> {
    let status = agent.status()?;
    let flows = agent.get_json("/flows").map_err(|error| format!("{error:#}"));
    Ok(Moment { status, flows, at: Instant::now() })
}

/// All parts, whole.
fn text(view: &View) -> String {
    let sections = Sections { view, look: Look::PLAIN };
    let parts = [
        sections.head(usize::MAX, State::Live),
        sections.destinations(WIDTH, usize::MAX),
        sections.interfaces(WIDTH, usize::MAX, 0, InterfaceOrder::Run, false),
        sections.rings(WIDTH, 1),
        sections.ledger(WIDTH, 1),
        sections.troubles(WIDTH),
        sections.flows(WIDTH, usize::MAX, 0, FlowOrder::Bits, false),
    ];
    let mut text = String::new();
    for part in parts.into_iter().filter(|part| !part.is_empty()) {
        if !text.is_empty() {
            text.push('\n');
        }
        for line in part {
            let line: String = line.spans.iter().map(|span| span.content.as_ref()).collect();
            text += line.trim_end();
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{super::moment::tests::view, *};

    #[test]
    fn the_table_is_plain_text_with_all_parts() {
        let text = text(&view());
        for part in [
            "ready\n",
            "INTERFACE",
            "eth0",
            "SENSOR",
            "LEDGER",
            "ring_full",
            "BUSIEST FLOWS",
            "<> 10.20.0.2:9",
        ] {
            assert!(text.contains(part), "`{part}` is not in\n{text}");
        }
        assert!(text.is_ascii() && !text.contains('\u{1b}') && !text.contains(" \n"), "{text}");
    }
}

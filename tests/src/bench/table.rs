//! The results as tables for a terminal.

use std::{collections::BTreeMap, fmt::Write as _};

use super::results::{Answers, Frames, Results, Stream};

/// The tables, and what to know about them.
#[must_use]
pub fn draw(results: &Results) -> String {
    let mut text = String::new();
    if !results.frames.is_empty() {
        let rows = results.frames.iter().map(frames_row);
        let header = [
            "traffic",
            "system",
            "offered",
            "delivered",
            "Gbit/s",
            "lost",
            "loss-free",
            "cost us",
            "x mirred:",
            "delivered",
            "loss-free",
            "cost",
            "lost by",
        ];
        text += &aligned(header, rows, |row| row[0].clone());
    }
    if !results.tcp.is_empty() {
        let header = ["tcp", "system", "Gbit/s", "kept", "sent again", "arrived", "lost by"];
        text += "\n";
        text += &aligned(header, results.tcp.iter().map(stream_row), |_| String::new());
    }
    if !results.latency.is_empty() {
        let header = ["latency", "system", "p50 us", "p99 us", "added p50", "added p99", "arrived"];
        text += "\n";
        text += &aligned(header, results.latency.iter().map(answers_row), |row| row[0].clone());
    }
    let _ = write!(
        text,
        "\nM frames/s; medians of {} rounds; {} processors ({}), Linux {}, load before {:.2}\n",
        results.settings.rounds,
        results.machine.processors,
        results.machine.processor,
        results.machine.kernel,
        results.machine.load
    );
    for skipped in &results.skipped {
        let _ = writeln!(text, "skipped: {}: {}", skipped.name, skipped.reason);
    }
    text
}

fn frames_row(frames: &Frames) -> [String; 13] {
    let median = &frames.median;
    let million = |rate: Option<f64>| number(rate.map(|rate| rate / 1e6), 3);
    let ratio =
        |get: fn(&super::results::Ratios) -> Option<f64>| number(frames.to_mirred.as_ref().and_then(get), 2);
    [
        frames.traffic.name().into(),
        frames.system.name.into(),
        million(Some(median.offered)),
        million(median.delivered),
        number(median.bits.map(|bits| bits / 1e9), 2),
        percent(median.lost),
        million(median.loss_free),
        number(median.cost_us, 3),
        String::new(),
        ratio(|ratios| ratios.delivered),
        ratio(|ratios| ratios.loss_free),
        ratio(|ratios| ratios.cost_us),
        losses(&median.lost_by),
    ]
}

fn stream_row(stream: &Stream) -> [String; 7] {
    let median = &stream.median;
    [
        String::new(),
        stream.system.name.into(),
        number(Some(median.bits / 1e9), 2),
        percent(median.kept),
        number(Some(median.retransmits), 0),
        percent(median.arrived),
        losses(&median.lost_by),
    ]
}

fn answers_row(answers: &Answers) -> [String; 7] {
    let median = &answers.median;
    [
        answers.ends.name().into(),
        answers.system.name.into(),
        number(Some(median.p50_us), 2),
        number(Some(median.p99_us), 2),
        number(median.added_p50_us, 2),
        number(median.added_p99_us, 2),
        percent(median.arrived),
    ]
}

fn losses(lost_by: &BTreeMap<String, f64>) -> String {
    let list: Vec<_> =
        lost_by.iter().map(|(name, share)| format!("{name} {}", percent(Some(*share)))).collect();
    list.join(", ")
}

fn number(value: Option<f64>, decimals: usize) -> String {
    value.map_or("-".into(), |value| format!("{value:.decimals$}"))
}

fn percent(share: Option<f64>) -> String {
    match share {
        None => "-".into(),
        Some(0.0) => "0".into(),
        // Never rounded to none.
        Some(share) if share < 0.0005 => "<0.1 %".into(),
        Some(share) => format!("{:.1} %", share * 100.0),
    }
}

/// Columns as wide as they need to be: names to the left, figures to the right. A blank line where `group`
/// changes.
fn aligned<const N: usize>(
    header: [&str; N],
    rows: impl Iterator<Item = [String; N]>,
    group: impl Fn(&[String; N]) -> String,
) -> String {
    let rows: Vec<_> = std::iter::once(header.map(str::to_owned)).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<_> = (0..N).map(width).collect();
    let mut text = String::new();
    let mut last = None;
    for row in &rows {
        let this = group(row);
        if last.as_ref().is_some_and(|last| *last != this) {
            text.push('\n');
        }
        last = Some(this);
        let cells: Vec<_> = row
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(column, (cell, &width))| {
                let is_text = column < 2 || header[column] == "lost by";
                if is_text { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
            })
            .collect();
        text += cells.join("  ").trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_groups_apart() {
        let rows = [["a", "x", "1"], ["a", "long", "22"], ["b", "x", "3"]];
        let rows = rows.into_iter().map(|row| row.map(str::to_owned));
        let text = aligned(["t", "system", "n"], rows, |row| row[0].clone());
        assert_eq!(text, "t  system   n\n\na  x        1\na  long    22\n\nb  x        3\n");
    }

    #[test]
    fn few_losses_are_not_none() {
        assert_eq!(percent(Some(0.000_01)), "<0.1 %");
        assert_eq!(percent(Some(0.0)), "0");
        assert_eq!(percent(Some(0.123)), "12.3 %");
        assert_eq!(percent(None), "-");
    }
}

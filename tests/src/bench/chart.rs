//! The results as a picture, in SVG: for each traffic a group of bars.

use std::fmt::Write as _;

use super::{
    results::{Results, Round, StreamRound},
    systems::System,
};

const WIDTH: f64 = 960.0;
/// Left of the bars.
const NAMES: f64 = 130.0;
/// Right of the longest bar.
const FIGURES: f64 = 330.0;
const BAR: f64 = 16.0;
const LINE: f64 = 22.0;
const GAP: f64 = 34.0;

/// A bar with what is written beside it.
struct Bar {
    system: &'static System,
    /// Shares of the full width: pale from 0 to the first, full from 0 to the second.
    pale: f64,
    full: f64,
    text: String,
}

/// Draws the results.
#[must_use]
pub fn draw(results: &Results) -> String {
    let mut groups: Vec<(String, Vec<Bar>)> = Vec::new();
    let top = results.frames.iter().map(|frames| frames.median.offered).fold(1.0, f64::max);
    for frames in results.frames.iter().filter(|frames| !frames.system.is_nothing()) {
        let title = format!("{} (M frames/s)", frames.traffic.name());
        let bar = frames_bar(frames.system, &frames.median, top);
        add(&mut groups, title, bar);
    }
    let top = results.tcp.iter().map(|stream| stream.median.bits).fold(1.0, f64::max);
    for stream in &results.tcp {
        add(&mut groups, "tcp (Gbit/s)".into(), stream_bar(stream.system, &stream.median, top));
    }
    picture(&groups)
}

fn add(groups: &mut Vec<(String, Vec<Bar>)>, title: String, bar: Bar) {
    match groups.last_mut() {
        Some((last, bars)) if *last == title => bars.push(bar),
        _ => groups.push((title, vec![bar])),
    }
}

fn frames_bar(system: &'static System, round: &Round, top: f64) -> Bar {
    let (delivered, loss_free) = (round.delivered.unwrap_or_default(), round.loss_free.unwrap_or_default());
    let cost = round.cost_us.map(|cost| format!(", costs {cost:.2} us")).unwrap_or_default();
    Bar {
        system,
        pale: delivered / top,
        full: loss_free / top,
        text: format!("{:.2} without loss, {:.2} flat out{cost}", loss_free / 1e6, delivered / 1e6),
    }
}

fn stream_bar(system: &'static System, round: &StreamRound, top: f64) -> Bar {
    let arrived = round.arrived.map(|arrived| format!(", {:.0} % of it mirrored", arrived * 100.0));
    Bar {
        system,
        pale: round.bits / top,
        full: round.bits * round.arrived.unwrap_or_default().min(1.0) / top,
        text: format!("{:.1}{}", round.bits / 1e9, arrived.unwrap_or_default()),
    }
}

fn picture(groups: &[(String, Vec<Bar>)]) -> String {
    let mut body = String::new();
    let mut y = 56.0;
    for (title, bars) in groups {
        let _ = writeln!(body, r#"<text x="10" y="{}" class="title">{title}</text>"#, y + 12.0);
        y += LINE;
        for bar in bars {
            let base = y + BAR - 3.5;
            let color = bar.system.color;
            let _ = writeln!(body, r#"<text x="10" y="{base}">{}</text>"#, bar.system.name);
            for (share, opacity) in [(bar.pale, 0.35), (bar.full, 1.0)] {
                let width = share.clamp(0.0, 1.0) * (WIDTH - NAMES - FIGURES);
                let _ = writeln!(
                    body,
                    r#"<rect x="{NAMES}" y="{y}" width="{width:.1}" height="{BAR}" fill="{color}" opacity="{opacity}"/>"#
                );
            }
            let x = NAMES + bar.pale.max(bar.full).clamp(0.0, 1.0) * (WIDTH - NAMES - FIGURES) + 8.0;
            let _ = writeln!(body, r#"<text x="{x:.1}" y="{base}">{}</text>"#, bar.text);
            y += LINE;
        }
        y += GAP - LINE;
    }
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}" viewBox="0 0 {WIDTH} {y}">
<style>text {{ font: 13px sans-serif; fill: #222 }} .title {{ font-weight: bold }}</style>
<rect width="100%" height="100%" fill="#fff"/>
<text x="10" y="24" class="title">mirror-agent beside other mirrors: what reaches the sensor</text>
<text x="10" y="42">full: the highest rate without a loss (of tcp: what was mirrored); pale: the generator flat out (of tcp: what was sent)</text>
{body}</svg>
"##
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{
        results::{Frames, Machine, Settings, Stream},
        systems::SYSTEMS,
        traffic::Traffic,
    };

    #[test]
    fn every_tag_is_closed_and_every_system_drawn() {
        let median = Round { offered: 2e6, delivered: Some(1.5e6), ..Round::default() };
        let frames = |traffic| Frames {
            system: &SYSTEMS[2],
            traffic,
            median: median.clone(),
            to_mirred: None,
            rounds: Vec::new(),
        };
        let stream = StreamRound { bits: 3e9, ..StreamRound::default() };
        let results = Results {
            schema: 1,
            machine: Machine { kernel: String::new(), processor: String::new(), processors: 2, load: 0.0 },
            settings: Settings { rounds: 1, phase_s: 1.0, steps: 7 },
            skipped: Vec::new(),
            frames: vec![frames(Traffic::Small), frames(Traffic::Large)],
            tcp: vec![Stream { system: &SYSTEMS[0], median: stream, rounds: Vec::new() }],
            latency: Vec::new(),
        };
        let svg = draw(&results);
        assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
        assert_eq!(svg.matches("<rect").count(), 1 + 3 * 2);
        assert_eq!(svg.matches(">agent-udp<").count(), 2);
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
    }
}

//! What is told at the end, and in between.

use std::{
    borrow::Cow,
    cmp::Reverse,
    collections::BTreeMap,
    fmt::{self, Display, Formatter},
};

use serde::{Deserialize, Serialize};

use crate::ledger::Ledger;

/// The final report. The names are the contract with whoever reads the JSON form.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Report {
    /// Version of this form: 1.
    pub schema: u32,
    /// How frames reach the output: `ring`, `redirect` within the kernel, or `replay` from captures.
    pub mode: Cow<'static, str>,
    /// Where the kernel programs sit: `tc` or `xdp`; `none` in a replay.
    pub hook: Cow<'static, str>,
    /// What frames are sent in: `vxlan`, `geneve`, or `none` in a capture.
    pub encap: Cow<'static, str>,
    /// From the first hook attached to the last one detached; of a replay, until its last frame.
    pub duration_s: f64,
    /// What each interface's hooks saw, or what was taken from each capture.
    pub interfaces: Vec<InterfaceReport>,
    /// What became of all frames.
    pub frames: Ledger,
    /// Sent frames that were cut, here or, in a replay, when they were captured.
    pub truncated: u64,
    /// Frames of the wire that the sent ones are: a super-frame counts once in `frames`, and here as often as
    /// the network card would have cut it.
    pub segments: u64,
    /// Datagrams handed to the network.
    pub datagrams_sent: u64,
    /// Their UDP payload.
    pub bytes_sent: u64,
    /// Refusals by the kernel or by the network, by the name of the error.
    pub send_errors: BTreeMap<String, u64>,
    /// What went to each sensor.
    pub destinations: Vec<DestinationReport>,
    /// Only of a replay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replay: Option<ReplayReport>,
}

/// How a replay went.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ReplayReport {
    /// Passes over all captures that were completed.
    pub passes: u64,
    /// Frames with an earlier time than the frame before them in the capture.
    pub backward_timestamps: u64,
    /// The longest time that a frame was late against the pacing asked for.
    pub late_ms: f64,
}

/// One interface's part.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct InterfaceReport {
    /// Its name.
    pub name: String,
    /// Frames that its hooks saw.
    pub seen: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// Network identifier of its frames, where it has one of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vni: Option<u32>,
}

/// One sensor's part.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct DestinationReport {
    /// Address and port, of a name the last one.
    pub address: String,
    /// The name and port, where the user gave a name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Datagrams handed to the network for it.
    pub datagrams: u64,
    /// Their UDP payload.
    pub bytes: u64,
    /// Seconds that it was taken to be down: only where there are several.
    pub down_s: f64,
    /// How often it was marked down.
    pub times_down: u32,
    /// Whether it is so at the end.
    pub is_down: bool,
}

impl Display for DestinationReport {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { address, name, datagrams, bytes, down_s, times_down, is_down } = self;
        write!(f, "{datagrams:>12} datagrams, {bytes} bytes to ")?;
        match name {
            Some(name) => write!(f, "{name} ({address})")?,
            None => write!(f, "{address}")?,
        }
        match (times_down, is_down) {
            (0, _) => Ok(()),
            (1, false) => write!(f, ", which was down for {down_s:.1} s"),
            (_, false) => write!(f, ", which was down {times_down} times, for {down_s:.1} s"),
            (_, true) => write!(f, ", which is down: for {down_s:.1} s in all"),
        }
    }
}

/// Interfaces that the text names, the busiest ones. The JSON form has all.
const INTERFACES_SHOWN: usize = 20;

/// From here on a reader has to know that the pacing was not kept.
const LATE_MS: f64 = 1.0;

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Ledger { seen, filtered, own, sent, .. } = self.frames;
        writeln!(f, "in {:.1} s:", self.duration_s)?;
        let mut busiest: Vec<&InterfaceReport> = self.interfaces.iter().collect();
        let others = if busiest.len() > INTERFACES_SHOWN {
            busiest.sort_by_key(|interface| Reverse(interface.seen));
            busiest.split_off(INTERFACES_SHOWN)
        } else {
            Vec::new()
        };
        for InterfaceReport { name, seen, bytes, vni } in busiest {
            write!(f, "  {seen:>12} frames, {bytes} bytes seen on {name}")?;
            match vni {
                Some(vni) => writeln!(f, ", vni {vni}")?,
                None => writeln!(f)?,
            }
        }
        if !others.is_empty() {
            let seen: u64 = others.iter().map(|interface| interface.seen).sum();
            let bytes: u64 = others.iter().map(|interface| interface.bytes).sum();
            writeln!(f, "  {seen:>12} frames, {bytes} bytes seen on {} others", others.len())?;
        }
        if self.interfaces.len() != 1 {
            writeln!(f, "  {seen:>12} frames seen")?;
        }
        writeln!(f, "  {sent:>12} sent")?;
        if self.segments > sent {
            writeln!(
                f,
                "  {:>12} frames on the wire, after the segmentation that was left to the card",
                self.segments
            )?;
        }
        for destination in &self.destinations {
            writeln!(f, "  {destination}")?;
        }
        if filtered > 0 {
            writeln!(f, "  {filtered:>12} left out by the filter")?;
        }
        if own > 0 {
            writeln!(f, "  {own:>12} the agent's own, not mirrored again")?;
        }
        for (name, count) in left_out(&self.frames) {
            writeln!(f, "  {count:>12} left out: {name}")?;
        }
        for (name, count) in losses(&self.frames) {
            writeln!(f, "  {count:>12} lost: {name}")?;
        }
        if self.truncated > 0 {
            writeln!(f, "  {:>12} of those sent were cut", self.truncated)?;
        }
        if let Some(replay) = &self.replay {
            if replay.backward_timestamps > 0 {
                let count = replay.backward_timestamps;
                writeln!(
                    f,
                    "  {count:>12} times the capture's clock went back: sent in the capture's order"
                )?;
            }
            if replay.late_ms >= LATE_MS {
                writeln!(f, "  {:>12.3} ms behind the pacing asked for, at most", replay.late_ms)?;
            }
        }
        for (name, count) in &self.send_errors {
            writeln!(f, "  {count:>12} times {name} from the output")?;
        }
        match self.frames.unaccounted() {
            0 => write!(f, "every frame is accounted for"),
            count => write!(f, "{count} frames are unaccounted for: this is a bug, please report it"),
        }
    }
}

/// One line of counts, for `--stats-interval`.
#[must_use]
pub fn stats_line(ledger: &Ledger, rate: f64) -> String {
    let mut line =
        format!("seen {} sent {} own {} lost {}", ledger.seen, ledger.sent, ledger.own, ledger.lost());
    for (name, count) in left_out(ledger).chain(losses(ledger)) {
        line += &format!(" {name} {count}");
    }
    line + &format!(" rate {rate:.0}/s")
}

/// What was not asked for.
fn left_out(ledger: &Ledger) -> impl Iterator<Item = (&'static str, u64)> {
    [("sampled_out", ledger.sampled_out), ("rate_limited", ledger.rate_limited)]
        .into_iter()
        .filter(|(_, count)| *count > 0)
}

fn losses(ledger: &Ledger) -> impl Iterator<Item = (&'static str, u64)> {
    [
        ("ring_full", ledger.ring_full),
        ("copy_failed", ledger.copy_failed),
        ("too_big", ledger.too_big),
        ("send_failed", ledger.send_failed),
    ]
    .into_iter()
    .filter(|(_, count)| *count > 0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn json_has_the_names_that_others_rely_on() {
        let json = serde_json::to_value(Report::default()).unwrap();
        let names: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
        let mut expected = [
            "schema",
            "mode",
            "hook",
            "encap",
            "duration_s",
            "interfaces",
            "frames",
            "truncated",
            "segments",
            "datagrams_sent",
            "bytes_sent",
            "send_errors",
            "destinations",
        ];
        expected.sort_unstable();
        assert_eq!(names, expected);
        let mut ledger: Vec<_> = json["frames"].as_object().unwrap().keys().cloned().collect();
        ledger.sort_unstable();
        assert_eq!(
            ledger,
            [
                "copy_failed",
                "filtered",
                "own",
                "rate_limited",
                "ring_full",
                "sampled_out",
                "seen",
                "send_failed",
                "sent",
                "too_big"
            ]
        );
    }

    #[test]
    fn text_names_the_busiest_interfaces() {
        let interface =
            |seen| InterfaceReport { name: format!("veth{seen}"), seen, bytes: 60 * seen, vni: None };
        let report = Report { interfaces: (1..=100).map(interface).collect(), ..Report::default() };
        let text = report.to_string();
        assert!(text.contains("100 frames, 6000 bytes seen on veth100"), "{text}");
        assert!(!text.contains("seen on veth80\n"), "{text}");
        assert!(text.contains("3240 frames, 194400 bytes seen on 80 others"), "{text}");
    }

    #[test]
    fn text_says_what_was_lost() {
        let frames = Ledger { seen: 10, sent: 7, ring_full: 3, ..Ledger::default() };
        let text = Report { frames, ..Report::default() }.to_string();
        assert!(text.contains("3 lost: ring_full"), "{text}");
        assert!(text.contains("every frame is accounted for"), "{text}");
        assert_eq!(stats_line(&frames, 5.0), "seen 10 sent 7 own 0 lost 3 ring_full 3 rate 5/s");
    }
}

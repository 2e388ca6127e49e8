//! What a sink tells people and programs.

use std::{fmt::Write as _, time::Duration};

use super::tally::Tally;

/// The line of `--stats-interval`: the counts so far, and the rate of `frames` and `bytes` in `period`.
#[must_use]
pub fn progress(tally: &Tally, frames: u64, bytes: u64, period: Duration) -> String {
    let seconds = period.as_secs_f64().max(1e-9);
    let rate = frames as f64 / seconds;
    let mbit = bytes as f64 * 8.0 / seconds / 1e6;
    format!("{}; {rate:.0} frames/s, {mbit:.3} Mbit/s", counts(tally))
}

/// The final report for people.
#[must_use]
pub fn text(tally: &Tally) -> String {
    let mut text = counts(tally);
    for (vni, frames) in &tally.vnis {
        let _ = write!(text, "\nvni {vni}: {frames} frames");
    }
    text
}

fn counts(tally: &Tally) -> String {
    let Tally { datagrams, frames, bytes, malformed, control, kernel_drops, .. } = tally;
    let mut text = format!(
        "received {frames} frames ({bytes} bytes) in {datagrams} datagrams, {malformed} malformed, \
         {kernel_drops} dropped by the kernel"
    );
    if *control > 0 {
        let _ = write!(text, ", {control} control messages");
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn tally() -> Tally {
        let vnis = [(10, 2), (9, 1)].into();
        Tally { datagrams: 4, frames: 3, bytes: 180, malformed: 1, vnis, kernel_drops: 5, ..Tally::new() }
    }

    #[test]
    fn json_is_as_documented() {
        let expected = r#"{"schema":1,"datagrams":4,"frames":3,"bytes":180,"malformed":1,"control":0,"vnis":{"9":1,"10":2},"kernel_drops":5}"#;
        assert_eq!(serde_json::to_string(&tally()).unwrap(), expected);
    }

    #[test]
    fn text_has_every_count() {
        assert_eq!(
            text(&tally()),
            "received 3 frames (180 bytes) in 4 datagrams, 1 malformed, 5 dropped by the kernel\n\
             vni 9: 1 frames\nvni 10: 2 frames"
        );
        let with_messages = Tally { control: 2, ..tally() };
        assert!(text(&with_messages).contains("dropped by the kernel, 2 control messages\n"));
    }

    #[test]
    fn progress_gives_the_rate_since_the_last_line() {
        let line = progress(&tally(), 3, 180, Duration::from_millis(500));
        assert!(line.ends_with("; 6 frames/s, 0.003 Mbit/s"), "{line}");
    }
}

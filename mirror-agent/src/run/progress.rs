//! Tells how a run goes on: `--stats-interval`'s lines, and of a replay a bar on a terminal or a line now
//! and then.

use std::{
    fs,
    io::{self, IsTerminal as _},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use log::LevelFilter;
use tokio::time::{Instant as Deadline, Interval, MissedTickBehavior, interval_at};

use super::origin::Origin;
use crate::{
    config::{Config, Replay, Source},
    console::{self, notice},
    ledger::Ledger,
    report::stats_line,
};

/// Between two looks at a bar.
const BAR_INTERVAL: Duration = Duration::from_millis(200);

/// Between two lines of a replay where nobody said how many, and no terminal shows a bar.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// Says nothing where nothing is to be said.
pub struct Progress {
    ticks: Option<Interval>,
    form: Form,
    told_at: Instant,
    told_sent: u64,
}

enum Form {
    Lines { total: Option<u64> },
    Bar(ProgressBar),
}

impl Progress {
    /// For a run that begins now.
    pub fn new(config: &Config) -> Self {
        let is_quiet = log::max_level() <= LevelFilter::Error;
        let (interval, form) = match (&config.source, config.stats_interval) {
            (Source::Replay(replay), None) if !is_quiet => {
                let total = total(replay);
                if io::stderr().is_terminal() && !console::is_json() {
                    (Some(BAR_INTERVAL), Form::Bar(bar(total)))
                } else {
                    (Some(LINE_INTERVAL), Form::Lines { total })
                }
            }
            (_, interval) => (interval, Form::Lines { total: None }),
        };
        let ticks = interval.map(|interval| {
            let mut ticks = interval_at(Deadline::now() + interval, interval);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            ticks
        });
        Self { ticks, form, told_at: Instant::now(), told_sent: 0 }
    }

    /// Waits until there is something to tell; for ever, where nobody wants to hear.
    pub async fn due(&mut self) {
        match &mut self.ticks {
            Some(ticks) => {
                ticks.tick().await;
            }
            None => std::future::pending().await,
        }
    }

    /// Tells the counts so far.
    pub fn tell(&mut self, ledger: &Ledger, origin: &Origin) {
        let rate = (ledger.sent - self.told_sent) as f64 / self.told_at.elapsed().as_secs_f64();
        (self.told_at, self.told_sent) = (Instant::now(), ledger.sent);
        let position = origin.position();
        match &self.form {
            Form::Bar(bar) => {
                let bytes = origin.contributions().map_or(0, |all| all.iter().map(|one| one.bytes).sum());
                if bar.length().is_some() {
                    bar.set_position(position);
                }
                bar.set_message(format!(
                    "{} frames, {}, {rate:.0} frames/s",
                    ledger.sent,
                    indicatif::HumanBytes(bytes)
                ));
                bar.tick();
            }
            Form::Lines { total } => {
                let mut line = stats_line(ledger, rate);
                if let Some(total) = total.filter(|total| *total > 0) {
                    line += &format!(" at {:.1} %", position as f64 * 100.0 / total as f64);
                }
                notice(format_args!("{line}"));
            }
        }
    }

    /// Takes the bar away: what comes now is the report.
    pub fn end(self) {
        if let Form::Bar(bar) = self.form {
            bar.finish_and_clear();
        }
    }
}

/// Bytes of all files in all passes. `None` where they are not known: a pipe, or no end of passes.
fn total(replay: &Replay) -> Option<u64> {
    let length = |path| fs::metadata(path).ok().filter(fs::Metadata::is_file).map(|file| file.len());
    let one_pass = replay.files.iter().map(length).sum::<Option<u64>>()?;
    if replay.passes == 0 { None } else { one_pass.checked_mul(replay.passes) }
}

fn bar(total: Option<u64>) -> ProgressBar {
    let target = ProgressDrawTarget::stderr();
    // indicatif fills the line up to the terminal's width: a ^C that is echoed wraps, and the bar stays.
    let (bar, template) = match total {
        Some(total) => (
            ProgressBar::with_draw_target(Some(total), target),
            "{elapsed} {bar:20} {percent} % {msg}, {eta} left",
        ),
        None => (ProgressBar::with_draw_target(None, target), "{elapsed} {spinner} {msg}"),
    };
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        // The template is a constant; were it wrong, the bar would only look plain.
        Err(_) => bar,
    }
}

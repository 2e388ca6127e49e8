//! The parts of the view, as lines of text: the same for a terminal and for `--once`.

use std::cmp::{Ordering, Reverse};

use clap::Parser as _;
use ratatui::{
    style::Style,
    text::{Line, Span},
};

use super::{
    figure,
    keys::{FlowOrder, InterfaceOrder},
    moment::{Entry, Interface, Kind, View},
    style::Look,
};
use crate::cli::Cli;

/// Draws the parts, each so many characters wide.
#[derive(Clone, Copy, Debug)]
pub struct Sections<'a> {
    /// What is shown.
    pub view: &'a View,
    /// How.
    pub look: Look,
}

/// A cell's text goes to the left or to the right of its place.
#[derive(Clone, Copy)]
enum Side {
    Left,
    Right,
}

/// How it stands with the figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State<'a> {
    /// They are new.
    Live,
    /// They stand still, since the user wants that.
    Paused,
    /// They are the last ones: the agent does not answer any more.
    Lost {
        /// For so long.
        seconds: u64,
        /// Why not.
        why: &'a str,
    },
}

impl State<'_> {
    /// What there is to say while there are no figures at all.
    #[must_use]
    pub fn alone(self) -> String {
        match self {
            Self::Live | Self::Paused => "asking the agent".into(),
            Self::Lost { seconds, why } => format!("no answer for {seconds}s, q quits: {why}"),
        }
    }
}

type Cell<'a> = (&'a str, usize, Side, Style);

impl Sections<'_> {
    /// Version, mode, whether it is ready, and what was asked for: two lines, more where it is not ready.
    #[must_use]
    pub fn head(&self, width: usize, state: State<'_>) -> Vec<Line<'static>> {
        let status = &self.view.now.status;
        let report = &status.report;
        let first = format!(
            "mirror-agent {} pid {}  {} mode, {} hook, {}  up {}  ",
            status.version,
            status.pid,
            report.mode,
            report.hook,
            report.encap,
            figure::time(report.duration_s)
        );
        let ready = match state {
            State::Lost { .. } => Span::styled("ENDED", self.look.bad()),
            _ if status.ready => Span::styled("ready", self.look.good()),
            _ => Span::styled("NOT READY", self.look.bad()),
        };
        let mut spans = vec![Span::styled(self.look.text(&first), self.look.title()), ready];
        if state == State::Paused {
            spans.push(Span::styled(" PAUSED", self.look.warning()));
        }
        let mut lines = vec![Line::from(spans)];
        if let State::Lost { seconds, why } = state {
            let text =
                format!("no answer for {seconds}s: these are the last figures; waiting, q quits ({why})");
            lines.push(Line::styled(self.cut(&self.look.text(&text), width), self.look.bad()));
            return lines;
        }
        for reason in &status.not_ready {
            let reason = self.look.text(&format!("not ready: {reason}"));
            lines.push(Line::styled(self.cut(&reason, width), self.look.bad()));
        }
        let asked = format!("{}   {}", filter(&status.arguments), status.arguments.join(" "));
        lines.push(Line::raw(self.cut(&self.look.text(&asked), width)));
        lines
    }

    /// The interfaces from number `first` on, at most `most` of them, below a heading.
    #[must_use]
    pub fn interfaces(
        &self,
        width: usize,
        most: usize,
        first: usize,
        order: InterfaceOrder,
        is_chosen: bool,
    ) -> Vec<Line<'static>> {
        let mut all = self.view.interfaces();
        sort_interfaces(&mut all, order);
        let has_bytes = width >= 88;
        let fixed = 11 + 10 + 12 + 11 + 13 + if has_bytes { 12 } else { 0 };
        let room = width.saturating_sub(fixed);
        let title = self.heading("INTERFACE", all.len(), most, first, is_chosen, room);
        let style = self.look.title();
        let mut cells = vec![
            (title.as_str(), room, Side::Left, style),
            ("in frame/s", 11, Side::Right, style),
            ("bit/s", 10, Side::Right, style),
            ("out frame/s", 12, Side::Right, style),
            ("bit/s", 11, Side::Right, style),
            ("frames seen", 13, Side::Right, style),
        ];
        if has_bytes {
            cells.push(("bytes", 12, Side::Right, style));
        }
        let mut lines = vec![self.line(&cells)];
        if all.is_empty() && most > 0 {
            lines.push(Line::raw("none yet"));
        }
        for interface in all.iter().skip(first).take(most) {
            let [into, into_bits] = [interface.ingress.frames, interface.ingress.bits].map(figure::rate);
            let [out, out_bits] = [interface.egress.frames, interface.egress.bits].map(figure::rate);
            let name = self.look.text(&interface.status.name);
            let frames = interface.frames().to_string();
            let bytes = figure::bytes(interface.bytes());
            let style = Style::new();
            let mut cells = vec![
                (name.as_str(), room, Side::Left, style),
                (into.as_str(), 11, Side::Right, style),
                (into_bits.as_str(), 10, Side::Right, style),
                (out.as_str(), 12, Side::Right, style),
                (out_bits.as_str(), 11, Side::Right, style),
                (frames.as_str(), 13, Side::Right, style),
            ];
            if has_bytes {
                cells.push((bytes.as_str(), 12, Side::Right, style));
            }
            lines.push(self.line(&cells));
        }
        lines
    }

    /// The sensors, at most `most` of them, below a heading.
    #[must_use]
    pub fn destinations(&self, width: usize, most: usize) -> Vec<Line<'static>> {
        let all = self.view.destinations();
        let room = width.saturating_sub(8 + 12 + 10 + 14 + 6);
        let title = self.heading("SENSOR", all.len(), most, 0, false, room);
        let style = self.look.title();
        let mut lines = vec![self.line(&[
            (title.as_str(), room, Side::Left, style),
            (" by", 8, Side::Left, style),
            ("datagram/s", 12, Side::Right, style),
            ("bit/s", 10, Side::Right, style),
            ("datagrams", 14, Side::Right, style),
            ("state", 6, Side::Right, style),
        ])];
        for (status, rate) in all.iter().take(most) {
            let name = match &status.name {
                Some(name) => format!("{name} ({})", status.address),
                None => status.address.clone(),
            };
            let name = self.look.text(&name);
            let by = format!(" {}", status.transmit);
            let [frames, bits] = [rate.frames, rate.bits].map(figure::rate);
            let total = status.datagrams.to_string();
            let (state, state_style) =
                if status.is_down { ("DOWN", self.look.bad()) } else { ("up", self.look.good()) };
            let style = Style::new();
            lines.push(self.line(&[
                (name.as_str(), room, Side::Left, style),
                (by.as_str(), 8, Side::Left, style),
                (frames.as_str(), 12, Side::Right, style),
                (bits.as_str(), 10, Side::Right, style),
                (total.as_str(), 14, Side::Right, style),
                (state, 6, Side::Right, state_style),
            ]));
        }
        lines
    }

    /// How full the rings are, in so many columns.
    #[must_use]
    pub fn rings(&self, width: usize, columns: usize) -> Vec<Line<'static>> {
        let rings = &self.view.now.status.rings;
        let each = width / columns.max(1);
        let ring = |ring: &crate::status::RingStatus| {
            let share = if ring.size > 0 { ring.used as f64 / ring.size as f64 } else { 0.0 };
            let end = if each >= 60 {
                format!("{:>6.1}% of {}", share * 100.0, figure::bytes(ring.size))
            } else {
                format!("{:>6.1}%", share * 100.0)
            };
            let start = format!("ring {:<2} ", ring.index);
            let room = each.saturating_sub(start.len() + end.len() + 1);
            let (full, empty) = self.look.gauge(share, room);
            let style = match share {
                0.8.. => self.look.bad(),
                0.5.. => self.look.warning(),
                _ => self.look.good(),
            };
            [
                Span::styled(start, self.look.title()),
                Span::styled(full, style),
                Span::styled(empty, self.look.faint()),
                Span::raw(format!("{end} ")),
            ]
        };
        rings.chunks(columns.max(1)).map(|row| row.iter().flat_map(ring).collect()).collect()
    }

    /// The ledger, in so many columns; wide ones say what the names mean.
    #[must_use]
    pub fn ledger(&self, width: usize, columns: usize) -> Vec<Line<'static>> {
        let entries = self.view.ledger();
        let columns = columns.max(1);
        let each = width / columns;
        let has_meaning = each >= 64;
        let style = self.look.title();
        let title = |_| -> Vec<Span<'static>> {
            let mut cells: Vec<Cell<'_>> = vec![
                ("LEDGER", 13, Side::Left, style),
                ("frames", 14, Side::Right, style),
                ("frame/s", 10, Side::Right, style),
            ];
            if has_meaning {
                cells.push(("share", 8, Side::Right, style));
                cells.push(("  which are", each.saturating_sub(45), Side::Left, style));
            } else {
                cells.push(("", each.saturating_sub(37), Side::Left, style));
            }
            self.spans(&cells)
        };
        let mut lines = vec![(0..columns).flat_map(title).collect()];
        let rows = entries.len().div_ceil(columns);
        let seen = self.view.now.status.report.frames.seen;
        for row in 0..rows {
            let of_row = (0..columns).filter_map(|column| entries.get(column * rows + row));
            lines.push(of_row.flat_map(|entry| self.entry(entry, seen, each, has_meaning)).collect());
        }
        lines
    }

    fn entry(&self, entry: &Entry, seen: u64, width: usize, has_meaning: bool) -> Vec<Span<'static>> {
        let style = match (entry.kind, entry.total, entry.rate) {
            (Kind::Lost, 1.., Some(rate)) if rate > 0.0 => self.look.bad(),
            (Kind::Lost, 1.., _) => self.look.warning(),
            (Kind::Sent, 1.., _) => self.look.good(),
            (_, 0, _) => self.look.faint(),
            _ => Style::new(),
        };
        let (total, rate) = (entry.total.to_string(), figure::rate(entry.rate));
        let share = figure::share(entry.total as f64, seen as f64);
        let meaning = format!("  {}", entry.meaning);
        let mut cells = vec![
            (entry.name, 13, Side::Left, style),
            (total.as_str(), 14, Side::Right, style),
            (rate.as_str(), 10, Side::Right, style),
        ];
        if has_meaning {
            cells.push((share.as_str(), 8, Side::Right, style));
            cells.push((meaning.as_str(), width.saturating_sub(45), Side::Left, style));
        } else {
            cells.push(("", width.saturating_sub(37), Side::Left, style));
        }
        self.spans(&cells)
    }

    /// What kept datagrams from leaving, and what the host lost: nothing where there was no such thing.
    #[must_use]
    pub fn troubles(&self, width: usize) -> Vec<Line<'static>> {
        let status = &self.view.now.status;
        let before = self.view.before.as_ref().map(|before| &before.status);
        let host = &status.host;
        let mut troubles: Vec<(String, u64, u64)> = Vec::new();
        for (name, count) in &status.report.send_errors {
            let earlier = before.and_then(|before| before.report.send_errors.get(name)).copied();
            troubles.push((format!("{name} from the network"), *count, earlier.unwrap_or(0)));
        }
        for (name, count, earlier) in [
            (
                "UDP send buffers full, on this host",
                host.udp_send_buffer_errors,
                before.map(|before| before.host.udp_send_buffer_errors),
            ),
            (
                "packets dropped by processors' queues",
                host.softnet_dropped,
                before.map(|before| before.host.softnet_dropped),
            ),
        ] {
            troubles.push((name.into(), count, earlier.unwrap_or(count)));
        }
        for (name, count) in &host.iface_dropped {
            let earlier = before.and_then(|before| before.host.iface_dropped.get(name)).copied();
            troubles.push((format!("packets dropped by {name}"), *count, earlier.unwrap_or(*count)));
        }
        troubles.retain(|(_, count, _)| *count > 0);
        let mut lines = Vec::new();
        if !troubles.is_empty() {
            lines.push(Line::styled("TROUBLE, since the start of each", self.look.title()));
        }
        for (name, count, earlier) in troubles {
            let grown = self.view.seconds().map(|seconds| count.saturating_sub(earlier) as f64 / seconds);
            let style = if grown.is_some_and(|grown| grown > 0.0) { self.look.bad() } else { Style::new() };
            let (name, count, grown) = (self.look.text(&name), count.to_string(), figure::rate(grown));
            lines.push(self.line(&[
                (name.as_str(), width.saturating_sub(24), Side::Left, style),
                (count.as_str(), 14, Side::Right, style),
                (grown.as_str(), 8, Side::Right, style),
                ("/s", 2, Side::Left, style),
            ]));
        }
        lines
    }

    /// The busiest flows from number `first` on, at most `most` of them, below a heading.
    #[must_use]
    pub fn flows(
        &self,
        width: usize,
        most: usize,
        first: usize,
        order: FlowOrder,
        is_chosen: bool,
    ) -> Vec<Line<'static>> {
        let answer = match &self.view.now.flows {
            Ok(answer) => answer,
            Err(why) => {
                let text = self.cut(&format!("no flows: {why}"), width);
                return vec![Line::styled("BUSIEST FLOWS", self.look.title()), Line::raw(text)];
            }
        };
        let mut flows = answer.flows.clone();
        match order {
            FlowOrder::Bits => flows.sort_by_key(|flow| Reverse(flow.bytes)),
            FlowOrder::Frames => flows.sort_by_key(|flow| Reverse(flow.frames)),
            FlowOrder::Name => {
                flows.sort_by(|a, b| (&a.a, &a.b, &a.protocol).cmp(&(&b.a, &b.b, &b.protocol)))
            }
        }
        let has_mean = width >= 100;
        let fixed = 8 + 11 + 10 + 8 + if has_mean { 12 } else { 0 };
        let room = width.saturating_sub(fixed);
        let mut name = format!("BUSIEST FLOWS, by 1 frame in {}", answer.sampled_one_in);
        if answer.missed > 0 {
            name += ", some missed";
        }
        let title = self.heading(&name, flows.len(), most, first, is_chosen, room + 8);
        let style = self.look.title();
        let mut cells = vec![
            (title.as_str(), room + 8, Side::Left, style),
            ("frame/s", 11, Side::Right, style),
            ("bit/s", 10, Side::Right, style),
            ("share", 8, Side::Right, style),
        ];
        if has_mean {
            cells.push(("bytes/frame", 12, Side::Right, style));
        }
        let mut lines = vec![self.line(&cells)];
        if flows.is_empty() && most > 0 {
            lines.push(Line::styled("none at the moment", self.look.faint()));
        }
        let all: f64 = flows.iter().map(|flow| flow.bytes as f64).sum();
        let per_second = |count: u64| (answer.seconds > 0.0).then(|| count as f64 / answer.seconds);
        for flow in flows.iter().skip(first).take(most) {
            let ends = format!("{} {} {}", flow.a, self.look.both_ways(), flow.b);
            let (protocol, ends) = (self.look.text(&flow.protocol), self.look.text(&ends));
            let frames = figure::rate(per_second(flow.frames));
            let bits = figure::rate(per_second(flow.bytes * 8));
            let share = figure::share(flow.bytes as f64, all);
            let mean = flow.bytes.checked_div(flow.frames).unwrap_or(0).to_string();
            let style = Style::new();
            let mut cells = vec![
                (protocol.as_str(), 8, Side::Left, style),
                (ends.as_str(), room, Side::Left, style),
                (frames.as_str(), 11, Side::Right, style),
                (bits.as_str(), 10, Side::Right, style),
                (share.as_str(), 8, Side::Right, style),
            ];
            if has_mean {
                cells.push((mean.as_str(), 12, Side::Right, style));
            }
            lines.push(self.line(&cells));
        }
        lines
    }

    /// A heading of a list, of which not all may be shown.
    fn heading(
        &self,
        name: &str,
        all: usize,
        most: usize,
        first: usize,
        is_chosen: bool,
        room: usize,
    ) -> String {
        let mark = if is_chosen { "*" } else { "" };
        let text = if all > most && most > 0 {
            format!("{name}{mark} {}-{} of {all}", first + 1, (first + most).min(all))
        } else {
            format!("{name}{mark}")
        };
        self.cut(&text, room)
    }

    fn line(&self, cells: &[Cell<'_>]) -> Line<'static> {
        self.spans(cells).into()
    }

    fn spans(&self, cells: &[Cell<'_>]) -> Vec<Span<'static>> {
        let span = |&(text, width, side, style): &Cell<'_>| {
            let text = self.cut(text, width);
            let text = match side {
                Side::Left => format!("{text:<width$}"),
                Side::Right => format!("{text:>width$}"),
            };
            Span::styled(text, style)
        };
        cells.iter().map(span).collect()
    }

    /// The text in at most `width` characters that the terminal has.
    fn cut(&self, text: &str, width: usize) -> String {
        if text.chars().count() <= width {
            return text.into();
        }
        let mut cut: String = text.chars().take(width.saturating_sub(1)).collect();
        if width > 0 {
            cut.push(self.look.ellipsis());
        }
        cut
    }
}

/// Those with the most first, or by name.
fn sort_interfaces(all: &mut [Interface<'_>], order: InterfaceOrder) {
    let sum = |a: Option<f64>, b: Option<f64>| a.unwrap_or(0.0) + b.unwrap_or(0.0);
    let most_first = |a: f64, b: f64| b.partial_cmp(&a).unwrap_or(Ordering::Equal);
    // The sort is stable: those that are the same stay in the run's order.
    all.sort_by(|a, b| match order {
        InterfaceOrder::Bits => {
            most_first(sum(a.ingress.bits, a.egress.bits), sum(b.ingress.bits, b.egress.bits))
        }
        InterfaceOrder::Frames => {
            most_first(sum(a.ingress.frames, a.egress.frames), sum(b.ingress.frames, b.egress.frames))
        }
        InterfaceOrder::Name => a.status.name.cmp(&b.status.name),
        InterfaceOrder::Run => Ordering::Equal,
    });
}

/// What the command line says of the filter. One that a file or a variable has is not there.
fn filter(arguments: &[String]) -> String {
    let words = std::iter::once("mirror-agent").chain(arguments.iter().map(String::as_str));
    let Ok(cli) = Cli::try_parse_from(words) else {
        return "filter: not known".into();
    };
    match (&cli.mirror.filter_file, cli.mirror.filter.as_slice()) {
        (Some(file), _) => format!("filter in {}", file.display()),
        (None, []) if cli.mirror.config.is_some() => "filter: as configured".into(),
        (None, []) => "no filter".into(),
        (None, words) => format!("filter {}", words.join(" ")),
    }
}

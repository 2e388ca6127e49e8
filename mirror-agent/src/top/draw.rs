//! Lays the parts out on a screen of any size.

use ratatui::{
    Frame,
    layout::Rect,
    text::{Line, Text},
    widgets::{Paragraph, Wrap},
};

use super::{
    keys::{HELP, List, Wish},
    moment::View,
    sections::{Sections, State},
    style::Look,
};

/// Less than this shows nothing.
const WIDTH_MIN: u16 = 72;
const HEIGHT_MIN: u16 = 14;

/// From here on there are two columns above the flows.
const WIDTH_WIDE: u16 = 140;
const HEIGHT_WIDE: u16 = 30;

/// Width of the right one: the ledger with its meanings.
const RIGHT: u16 = 70;

/// What the keys are, below everything.
const KEYS: &str = "q quit  p pause  i/f order  Tab list  arrows scroll  h help";

/// Draws everything. `state` is what there is to say beside the figures. Notes in `wish` how much has room.
pub fn draw(frame: &mut Frame<'_>, view: Option<&View>, wish: &mut Wish, state: State<'_>, look: Look) {
    let area = frame.area();
    if area.width < WIDTH_MIN || area.height < HEIGHT_MIN {
        let text =
            format!("too small: {}x{}, needs {WIDTH_MIN}x{HEIGHT_MIN}; q quits", area.width, area.height);
        // Also where the line has to be broken.
        let lines: Vec<_> = wrapped(&text, area.width.max(1).into()).into_iter().map(Line::raw).collect();
        return frame.render_widget(Paragraph::new(lines), area);
    }
    if wish.is_helping {
        let lines: Vec<_> = HELP.into_iter().map(Line::raw).collect();
        return frame.render_widget(Paragraph::new(lines), area);
    }
    let Some(view) = view else {
        return frame
            .render_widget(Paragraph::new(look.text(&state.alone())).wrap(Wrap { trim: true }), area);
    };
    let sections = Sections { view, look };
    let mut page = Page { frame, rest: area };
    page.put(sections.head(area.width.into(), state));
    page.put_below(vec![Line::styled(KEYS, look.faint())]);
    wish.count =
        [view.now.status.interfaces.len(), view.now.flows.as_ref().map_or(0, |flows| flows.flows.len())];
    if area.width >= WIDTH_WIDE && area.height >= HEIGHT_WIDE {
        wide(&mut page, &sections, wish);
    } else {
        narrow(&mut page, &sections, wish);
    }
}

fn narrow(page: &mut Page<'_, '_>, sections: &Sections<'_>, wish: &mut Wish) {
    let width = usize::from(page.rest.width);
    // First what is most wanted where there is not room for all.
    page.put_below(sections.ledger(width, 2));
    let rings = &sections.view.now.status.rings;
    if page.room() >= 8 {
        let columns = rings.len().clamp(1, 2);
        let lines = sections.rings(width, columns);
        page.put_below(lines.into_iter().take(page.room() / 6).collect());
    }
    let destinations = sections.view.now.status.destinations.len();
    if destinations > 0 && page.room() >= 4 {
        page.put(sections.destinations(width, destinations.min((page.room() / 5).max(1))));
    }
    lists(page, sections, wish, width);
}

fn wide(page: &mut Page<'_, '_>, sections: &Sections<'_>, wish: &mut Wish) {
    let left_width = usize::from(page.rest.width - RIGHT - 2);
    let mut right = sections.ledger(RIGHT.into(), 1);
    right.push(Line::default());
    let rings = sections.rings(RIGHT.into(), 1);
    let of_rings = rings.len();
    right.extend(rings);
    if of_rings > 0 {
        right.push(Line::default());
    }
    right.extend(sections.troubles(RIGHT.into()));
    let status = &sections.view.now.status;
    let destinations = sections.destinations(left_width, status.destinations.len().min(8));
    let wanted = (status.interfaces.len().max(1) + 2 + destinations.len()).max(right.len());
    let height = wanted.min(page.room() * 3 / 5);
    let [left, right_area] = page.columns(height, RIGHT);
    let mut column = Page { frame: page.frame, rest: right_area };
    column.put(right);
    let mut column = Page { frame: page.frame, rest: left };
    column.put(destinations);
    column.put(vec![Line::default()]);
    wish.page[0] = column.room().saturating_sub(1);
    wish.stay_within();
    let is_chosen = wish.list == List::Interfaces;
    column.put(sections.interfaces(left_width, wish.page[0], wish.first[0], wish.interface_order, is_chosen));
    page.put(vec![Line::default()]);
    wish.page[1] = page.room().saturating_sub(1);
    wish.stay_within();
    let is_chosen = wish.list == List::Flows;
    let width = usize::from(page.rest.width);
    page.put(sections.flows(width, wish.page[1], wish.first[1], wish.flow_order, is_chosen));
}

/// Interfaces and flows, in what room there is.
fn lists(page: &mut Page<'_, '_>, sections: &Sections<'_>, wish: &mut Wish, width: usize) {
    let room = page.room();
    let [interfaces, flows] = wish.count.map(|count| count.max(1) + 1);
    let for_interfaces = match room {
        _ if interfaces + flows <= room => interfaces,
        0..5 => room,
        _ => interfaces.min((room / 2).max(room.saturating_sub(flows))),
    };
    wish.page = [for_interfaces, room - for_interfaces].map(|rows| rows.saturating_sub(1));
    wish.stay_within();
    let [of_interfaces, of_flows] = [List::Interfaces, List::Flows].map(|list| list == wish.list);
    let interfaces =
        sections.interfaces(width, wish.page[0], wish.first[0], wish.interface_order, of_interfaces);
    page.put(interfaces.into_iter().take(for_interfaces).collect());
    page.put(sections.flows(width, wish.page[1], wish.first[1], wish.flow_order, of_flows));
}

/// A part of the screen that is filled from above and from below.
struct Page<'a, 'b> {
    frame: &'a mut Frame<'b>,
    rest: Rect,
}

impl Page<'_, '_> {
    fn room(&self) -> usize {
        self.rest.height.into()
    }

    fn put(&mut self, lines: Vec<Line<'static>>) {
        let height = self.take(lines.len());
        let area = Rect { height, ..self.rest };
        self.frame.render_widget(Paragraph::new(Text::from(lines)), area);
        self.rest = Rect { y: self.rest.y + height, height: self.rest.height - height, ..self.rest };
    }

    fn put_below(&mut self, lines: Vec<Line<'static>>) {
        let height = self.take(lines.len());
        let rest = self.rest.height - height;
        let area = Rect { y: self.rest.y + rest, height, ..self.rest };
        self.frame.render_widget(Paragraph::new(Text::from(lines)), area);
        self.rest.height = rest;
    }

    /// As many rows of those asked for as there are.
    fn take(&self, rows: usize) -> u16 {
        u16::try_from(rows).unwrap_or(u16::MAX).min(self.rest.height)
    }

    /// The upper `height` rows in two columns, the right one so many characters wide.
    fn columns(&mut self, height: usize, right: u16) -> [Rect; 2] {
        let height = self.take(height);
        let Rect { x, y, width, .. } = self.rest;
        let right = right.min(width);
        self.rest = Rect { y: y + height, height: self.rest.height - height, ..self.rest };
        [Rect { x, y, width: width - right, height }, Rect { x: x + width - right, y, width: right, height }]
    }
}

/// The text in lines of at most `width` characters.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let characters: Vec<char> = text.chars().collect();
    characters.chunks(width).map(|line| line.iter().collect()).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use ratatui::{Terminal, backend::TestBackend};

    use super::{super::moment::tests::view, *};
    use crate::{
        flows::answer::Flow,
        status::{InterfaceStatus, RingStatus},
    };

    fn shown(
        view: Option<&View>,
        wish: &mut Wish,
        size: (u16, u16),
        state: State<'_>,
        look: Look,
    ) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(size.0, size.1)).unwrap();
        terminal.draw(|frame| draw(frame, view, wish, state, look)).unwrap();
        let buffer = terminal.backend().buffer();
        let row = |y| (0..size.0).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
        (0..size.1).map(row).collect()
    }

    fn has(lines: &[String], words: &[&str]) -> bool {
        lines.iter().any(|line| {
            let of_line: Vec<_> = line.split_whitespace().collect();
            of_line.windows(words.len()).any(|window| window == words)
        })
    }

    /// What both sizes have to show.
    fn assert_complete(lines: &[String]) {
        for words in [
            &["up", "1m41s", "ready"][..],
            &["filter", "udp"],
            &["eth0", "11.0k", "44.0M", "10.0k", "4.80M", "2121000"],
            &["10.20.0.2:4789", "packet", "20.0k", "48.0M", "2020000", "up"],
            &["ring_full", "101000", "1.00k"],
            &["too_big", "7", "0"],
            &["sent", "2020000", "20.0k"],
            &["udp", "10.10.0.2:5000", "<>", "10.20.0.2:9", "11.0k", "44.0M", "100.0%"],
        ] {
            assert!(has(lines, words), "{words:?} is not in\n{}", lines.join("\n"));
        }
        assert!(lines.iter().any(|line| line.contains("ring 0") && line.contains("25.0%")), "{lines:#?}");
    }

    #[test]
    fn everything_is_there_at_80x24_and_at_160x50() {
        for size in [(80, 24), (160, 50), (80, 60), (200, 24)] {
            let lines = shown(Some(&view()), &mut Wish::default(), size, State::Live, Look::PLAIN);
            assert_complete(&lines);
        }
        let lines = shown(Some(&view()), &mut Wish::default(), (160, 50), State::Live, Look::PLAIN);
        assert!(
            has(&lines, &["ring_full", "101000", "1.00k", "4.8%", "no", "room", "in", "a", "ring"]),
            "{lines:#?}"
        );
    }

    #[test]
    fn a_screen_of_any_size_is_drawn() {
        let mut large = view();
        large.now.status.interfaces = (0..300)
            .map(|number| InterfaceStatus { name: format!("veth{number}"), ..InterfaceStatus::default() })
            .collect();
        large.now.status.rings = (0..16).map(|index| RingStatus { index, size: 1, used: 1 }).collect();
        let one = large.now.status.destinations[0].clone();
        large.now.status.destinations = vec![one; 64];
        large.now.status.not_ready = vec!["a sensor is down".into(); 3];
        let flow = Flow { a: "[fd00:1:2:3:4:5:6:7]:65535".into(), b: "x".repeat(300), ..Flow::default() };
        large.now.flows.as_mut().unwrap().flows = vec![flow; 50];
        for width in [1, 10, 71, 72, 80, 139, 140, 300] {
            for height in [1, 2, 13, 14, 15, 20, 24, 29, 30, 50, 100] {
                for look in [Look::PLAIN, Look { has_colour: true, has_unicode: true }] {
                    shown(Some(&large), &mut Wish::default(), (width, height), State::Paused, look);
                    shown(
                        None,
                        &mut Wish::default(),
                        (width, height),
                        State::Lost { seconds: 3, why: "gone" },
                        look,
                    );
                }
            }
        }
        let lines = shown(Some(&large), &mut Wish::default(), (40, 6), State::Live, Look::PLAIN);
        assert_eq!(lines[0], "too small: 40x6, needs 72x14; q quits");
    }

    #[test]
    fn hundreds_of_interfaces_are_scrolled_through() {
        let mut large = view();
        large.now.status.interfaces = (0..300)
            .map(|number| InterfaceStatus { name: format!("veth{number}"), ..InterfaceStatus::default() })
            .collect();
        let mut wish = Wish::default();
        let lines = shown(Some(&large), &mut wish, (80, 24), State::Live, Look::PLAIN);
        assert!(lines.iter().any(|line| line.starts_with("veth0 ")), "{lines:#?}");
        assert!(has(&lines, &["of", "300"]), "{lines:#?}");
        wish.first[0] = 300;
        let lines = shown(Some(&large), &mut wish, (80, 24), State::Live, Look::PLAIN);
        assert!(lines.iter().any(|line| line.starts_with("veth299 ")), "{lines:#?}");
        assert!(!lines.iter().any(|line| line.starts_with("veth0 ")), "{lines:#?}");
    }

    #[test]
    fn drops_have_colour_unless_the_user_wants_none() {
        for (look, expected) in [
            (Look { has_colour: true, has_unicode: true }, true),
            (Look { has_colour: false, has_unicode: true }, false),
        ] {
            let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
            terminal
                .draw(|frame| draw(frame, Some(&view()), &mut Wish::default(), State::Live, look))
                .unwrap();
            let cells = &terminal.backend().buffer().content;
            let colour = ratatui::style::Color::Reset;
            assert_eq!(cells.iter().any(|cell| cell.fg != colour || cell.bg != colour), expected);
            let red = cells.iter().any(|cell| cell.fg == ratatui::style::Color::Red);
            assert_eq!(red, expected, "ring_full grows");
        }
    }

    #[test]
    fn flows_that_are_not_told_are_said_to_be() {
        let mut view = view();
        view.now.flows = Err("this agent does not tell".into());
        let lines = shown(Some(&view), &mut Wish::default(), (80, 24), State::Live, Look::PLAIN);
        assert!(has(&lines, &["no", "flows:", "this", "agent", "does", "not", "tell"]), "{lines:#?}");
    }
}

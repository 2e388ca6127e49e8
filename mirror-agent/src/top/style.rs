//! How things look: colours where the user wants them, and characters that the terminal has.

use std::{env, ffi::OsStr};

use ratatui::style::{Color, Modifier, Style};

/// What a terminal takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// Colours; else bold and reversed text stand for them.
    pub has_colour: bool,
    /// More than ASCII.
    pub has_unicode: bool,
}

impl Look {
    /// Of plain text.
    pub const PLAIN: Self = Self { has_colour: false, has_unicode: false };

    /// By the environment: <https://no-color.org>, and the locale's name.
    #[must_use]
    pub fn of_environment() -> Self {
        Self::of(|name| env::var_os(name).filter(|value| !value.is_empty()))
    }

    fn of<T: AsRef<OsStr>>(variable: impl Fn(&str) -> Option<T>) -> Self {
        let is_dumb = variable("TERM").is_some_and(|term| term.as_ref() == "dumb");
        // The first of them that is set counts: locale(7).
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(&variable);
        let has_unicode = locale.is_some_and(|locale| {
            let name = locale.as_ref().to_string_lossy().to_ascii_lowercase();
            name.contains("utf-8") || name.contains("utf8")
        });
        Self { has_colour: variable("NO_COLOR").is_none() && !is_dumb, has_unicode }
    }

    /// Of headings.
    #[must_use]
    pub fn title(self) -> Style {
        let style = Style::new().add_modifier(Modifier::BOLD);
        if self.has_colour { style.fg(Color::Cyan) } else { style }
    }

    /// Of what went well.
    #[must_use]
    pub fn good(self) -> Style {
        if self.has_colour { Style::new().fg(Color::Green) } else { Style::new() }
    }

    /// Of what was lost before.
    #[must_use]
    pub fn warning(self) -> Style {
        let style = Style::new().add_modifier(Modifier::BOLD);
        if self.has_colour { style.fg(Color::Yellow) } else { style }
    }

    /// Of what is being lost.
    #[must_use]
    pub fn bad(self) -> Style {
        let style = Style::new().add_modifier(Modifier::BOLD);
        if self.has_colour { style.fg(Color::Red) } else { style.add_modifier(Modifier::REVERSED) }
    }

    /// Of what is there and says nothing.
    #[must_use]
    pub fn faint(self) -> Style {
        if self.has_colour { Style::new().fg(Color::DarkGray) } else { Style::new() }
    }

    /// The two parts of a gauge of `width` characters that is full to `share` of 1.
    #[must_use]
    pub fn gauge(self, share: f64, width: usize) -> (String, String) {
        let [full, empty] = if self.has_unicode { ["█", "░"] } else { ["#", "."] };
        // A share that is more than nothing shows.
        let filled = ((share.clamp(0.0, 1.0) * width as f64).round() as usize)
            .max(usize::from(share > 0.0))
            .min(width);
        (full.repeat(filled), empty.repeat(width - filled))
    }

    /// Between the ends of a flow.
    #[must_use]
    pub fn both_ways(self) -> &'static str {
        if self.has_unicode { "↔" } else { "<>" }
    }

    /// Stands for what has no room.
    #[must_use]
    pub fn ellipsis(self) -> char {
        if self.has_unicode { '…' } else { '~' }
    }

    /// The text in characters that the terminal has.
    #[must_use]
    pub fn text(self, text: &str) -> String {
        let is_shown =
            |character: char| !character.is_control() && (self.has_unicode || character.is_ascii());
        text.chars().map(|character| if is_shown(character) { character } else { '?' }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(variables: &[(&str, &'static str)]) -> Look {
        Look::of(|name| variables.iter().find(|(its, _)| *its == name).map(|(_, value)| *value))
    }

    #[test]
    fn the_environment_says_what_a_terminal_takes() {
        assert_eq!(look(&[]), Look { has_colour: true, has_unicode: false });
        assert_eq!(look(&[("LANG", "de_DE.UTF-8")]), Look { has_colour: true, has_unicode: true });
        assert_eq!(
            look(&[("LANG", "C.utf8"), ("LC_ALL", "C")]),
            Look { has_colour: true, has_unicode: false }
        );
        assert_eq!(look(&[("NO_COLOR", "1")]), Look::PLAIN);
        assert_eq!(look(&[("TERM", "dumb")]), Look::PLAIN);
    }

    #[test]
    fn gauges_and_text_without_unicode() {
        let look = Look::PLAIN;
        assert_eq!(look.gauge(0.25, 8), ("##".into(), "......".into()));
        assert_eq!(look.gauge(0.001, 4).0, "#");
        assert_eq!(look.gauge(7.0, 4), ("####".into(), String::new()));
        assert_eq!(look.text("a\u{1b}ö"), "a??");
    }
}

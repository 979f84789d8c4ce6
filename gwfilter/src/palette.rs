//! The few roles that a coloured word has.
//!
//! Functions that make text take a [`Palette`] by value and wrap words in a role; a plain palette leaves them as they are, so tests
//! see plain text. Colour only repeats what the words say: nobody needs it to understand. JSON is never coloured, and what is
//! written to a pipe only on request.

use std::fmt::{self, Display};

use anstyle::{AnsiColor, Style};

/// Whether words are coloured, and how those of each role are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Palette {
    on: bool,
}

impl Palette {
    /// Words as they are.
    pub const PLAIN: Self = Self { on: false };
    /// Words in colour, for tests.
    pub const COLOURED: Self = Self { on: true };

    /// Words in colour, or as they are.
    #[must_use]
    pub const fn of(on: bool) -> Self {
        Self { on }
    }

    /// Whether there is colour at all.
    #[must_use]
    pub fn is_on(self) -> bool {
        self.on
    }

    /// What is as it should be: enforced, running, passed.
    #[must_use]
    pub fn good<T: Display>(self, what: T) -> Painted<T> {
        self.paint(Style::new().fg_color(Some(AnsiColor::Green.into())), what)
    }

    /// What needs a person, or was dropped: not enforced, an error, a refusal.
    #[must_use]
    pub fn bad<T: Display>(self, what: T) -> Painted<T> {
        self.paint(Style::new().fg_color(Some(AnsiColor::Red.into())).bold(), what)
    }

    /// What a person should know: enforced in part, paused, observed only.
    #[must_use]
    pub fn warn<T: Display>(self, what: T) -> Painted<T> {
        self.paint(Style::new().fg_color(Some(AnsiColor::Yellow.into())), what)
    }

    /// What is read last: units, codes, what is the same everywhere.
    #[must_use]
    pub fn dim<T: Display>(self, what: T) -> Painted<T> {
        self.paint(Style::new().dimmed(), what)
    }

    /// Headings and names of things.
    #[must_use]
    pub fn strong<T: Display>(self, what: T) -> Painted<T> {
        self.paint(Style::new().bold(), what)
    }

    fn paint<T: Display>(self, style: Style, what: T) -> Painted<T> {
        Painted {
            style: self.on.then_some(style),
            what,
        }
    }
}

/// Words of one role. Width and alignment count what is seen: `{:<8}` of a coloured word is as wide as of a plain one.
#[derive(Clone, Copy, Debug)]
pub struct Painted<T> {
    style: Option<Style>,
    what: T,
}

impl<T: Display> Display for Painted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.style {
            None => self.what.fmt(f),
            Some(style) => {
                write!(f, "{}", style.render())?;
                self.what.fmt(f)?;
                write!(f, "{}", style.render_reset())
            }
        }
    }
}

/// What is left of a text without its colours.
#[cfg(test)]
pub(crate) fn words(coloured: &str) -> String {
    let mut parts = coloured.split('\u{1b}');
    let first = parts.next().unwrap_or_default();
    let others = parts.map(|part| part.split_once('m').map_or("", |(_, words)| words));
    [first].into_iter().chain(others).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_then_its_codes_around_the_word_and_its_width_is_what_is_seen() {
        let p = Palette::COLOURED;
        insta::assert_snapshot!(
            format!("{} {} {} {} {}", p.good("a"), p.bad("b"), p.warn("c"), p.dim("d"), p.strong("e")).escape_debug(),
            @r"\u{1b}[32ma\u{1b}[0m \u{1b}[1m\u{1b}[31mb\u{1b}[0m \u{1b}[33mc\u{1b}[0m \u{1b}[2md\u{1b}[0m \u{1b}[1me\u{1b}[0m"
        );
        assert_eq!(format!("{:<4}|", p.dim("d")), "\u{1b}[2md   \u{1b}[0m|");
        assert_eq!(format!("{:>4}|", Palette::PLAIN.dim("d")), "   d|");
    }
}

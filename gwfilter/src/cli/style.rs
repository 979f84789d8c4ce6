//! Colour: the one place that decides whether output has any, and the few roles that it has.
//!
//! Functions that make text take a [`Palette`] by value and wrap words in a role; a plain palette leaves them as they are, so tests
//! see plain text. Colour only repeats what the words say: nobody needs it to understand. JSON is never coloured, and what is
//! written to a pipe only on request.

use std::fmt::{self, Display};
use std::io::{IsTerminal, Stderr, Stdout};

use anstyle::{AnsiColor, Style};
use clap::ValueEnum;

/// `--color`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless `NO_COLOR` is set or `TERM` is `dumb`; elsewhere if `CLICOLOR_FORCE` is set.
    #[default]
    Auto,
    /// Everywhere.
    Always,
    /// Nowhere.
    Never,
}

impl Color {
    /// What standard output gets.
    #[must_use]
    pub fn out(self, stream: &Stdout) -> Palette {
        self.of_this_process(stream.is_terminal())
    }

    /// What standard error gets.
    #[must_use]
    pub fn err(self, stream: &Stderr) -> Palette {
        self.of_this_process(stream.is_terminal())
    }

    fn of_this_process(self, terminal: bool) -> Palette {
        let set = |name: &str| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
        self.decide(terminal, set)
    }

    /// The flag comes first, then `NO_COLOR` (<https://no-color.org>: set and not empty), then `CLICOLOR_FORCE` (set and not `0`,
    /// <https://bixense.com/clicolors>), then whether somebody can see it.
    fn decide(self, terminal: bool, variable: impl Fn(&str) -> Option<String>) -> Palette {
        let given = |name: &str| variable(name).filter(|value| !value.is_empty());
        let on = match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto if given("NO_COLOR").is_some() => false,
            Self::Auto if given("CLICOLOR_FORCE").is_some_and(|value| value != "0") => true,
            Self::Auto => {
                terminal
                    && given("CLICOLOR").is_none_or(|value| value != "0")
                    && given("TERM").is_some_and(|value| value != "dumb")
            }
        };
        Palette { on }
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flag_variables_and_terminal_then_whether_there_is_colour() {
        let terminal = |variables: &'static [(&str, &str)]| (true, variables);
        let pipe = |variables: &'static [(&str, &str)]| (false, variables);
        for (flag, (seen, variables), wanted) in [
            (Color::Auto, terminal(&[("TERM", "xterm")]), true),
            (Color::Auto, pipe(&[("TERM", "xterm")]), false),
            (Color::Auto, terminal(&[("TERM", "dumb")]), false),
            (Color::Auto, terminal(&[]), false),
            (
                Color::Auto,
                terminal(&[("TERM", "xterm"), ("NO_COLOR", "1")]),
                false,
            ),
            (
                Color::Auto,
                terminal(&[("TERM", "xterm"), ("NO_COLOR", "")]),
                true,
            ),
            (
                Color::Auto,
                terminal(&[("TERM", "xterm"), ("CLICOLOR", "0")]),
                false,
            ),
            (Color::Auto, pipe(&[("CLICOLOR_FORCE", "1")]), true),
            (Color::Auto, pipe(&[("CLICOLOR_FORCE", "0")]), false),
            (
                Color::Auto,
                pipe(&[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")]),
                false,
            ),
            (Color::Always, pipe(&[("NO_COLOR", "1")]), true),
            (
                Color::Never,
                terminal(&[("TERM", "xterm"), ("CLICOLOR_FORCE", "1")]),
                false,
            ),
        ] {
            let variable = |name: &str| {
                let found = variables.iter().find(|(key, _)| *key == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            let palette = flag.decide(seen, variable);
            assert_eq!(palette.is_on(), wanted, "{flag:?} {seen} {variables:?}");
        }
    }

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

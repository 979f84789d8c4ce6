//! Colour: the one place that decides whether output has any.

use std::io::{IsTerminal, Stderr, Stdout};

use clap::ValueEnum;

use crate::palette::Palette;

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
        Palette::of(on)
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
}

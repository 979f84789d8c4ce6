//! How many tests passed and failed, and the line in which a test program says so.

use std::fmt;

use anyhow::{Result, bail};

/// How many passed and failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }

    /// An error if anything failed, or nothing ran.
    pub(crate) fn verdict(self, what: &str) -> Result<()> {
        match self {
            Self { passed: 0, failed: 0 } => bail!("{what}: no test ran"),
            Self { failed: 0, .. } => Ok(()),
            Self { failed, .. } => bail!("{what}: {failed} failed"),
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)
    }
}

/// Reads `test result: ok. 12 passed; 0 failed; …`.
pub(crate) fn closing_line(line: &str) -> Option<Tally> {
    let rest = line.strip_prefix("test result: ")?;
    let (_, counts) = rest.split_once(". ")?;
    let mut parts = counts.split("; ");
    let mut count = |word: &str| parts.next()?.strip_suffix(word)?.trim().parse().ok();
    Some(Tally {
        passed: count("passed")?,
        failed: count("failed")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_line_of_cargo_test_then_its_counts() {
        let tally = |passed, failed| Some(Tally { passed, failed });
        for (line, expected) in [
            (
                "test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
                tally(12, 0),
            ),
            (
                "test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 1 filtered out",
                tally(3, 2),
            ),
            ("test x ... ok", None),
            ("test result: ok", None),
        ] {
            assert_eq!(closing_line(line), expected, "{line}");
        }
    }

    #[test]
    fn tally_then_the_plain_closing_line_and_the_verdict() {
        assert_eq!(Tally { passed: 3, failed: 0 }.to_string(), "3 passed, 0 failed");
        assert!(Tally { passed: 3, failed: 0 }.verdict("x").is_ok());
        assert!(Tally { passed: 3, failed: 1 }.verdict("x").is_err());
        assert!(
            Tally::default().verdict("x").is_err(),
            "no test ran is no success"
        );
    }
}

//! `docs`: the pages of the reference that are made from the code.
//!
//! A test of `gwfilter` makes them, since the code knows what they say, and nothing of gwfilter is a part of xtask. It compares, or
//! writes when it is told to.

use anyhow::{Context as _, Result};

use crate::run::{cargo, run};

/// What `docs` is asked for.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub(crate) struct Options {
    /// Write nothing: fail if a page is out of date.
    #[arg(long)]
    check: bool,
}

/// The verb.
pub(crate) fn main(options: Options) -> Result<()> {
    if options.check { check() } else { make(true) }
}

/// Fails if a page is not as the code would make it.
pub(crate) fn check() -> Result<()> {
    make(false).context("a page of the reference is out of date: run `cargo xtask docs`")
}

fn make(write: bool) -> Result<()> {
    let mut command = cargo();
    // As all tests are built: what they have built serves this one.
    command.args([
        "test",
        "--quiet",
        "--locked",
        "--all-features",
        "--test",
        "reference",
    ]);
    if write {
        command.env("GWFILTER_BLESS", "1");
    } else {
        command.env_remove("GWFILTER_BLESS");
    }
    run(&mut command)
}

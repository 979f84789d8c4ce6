//! `gwfilter status`.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use clap::ValueEnum;

use super::written;
use crate::dataplane::seen::programs;
use crate::palette::Palette;
use crate::survey;

/// Arguments of `gwfilter status`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory that the agent was given by the same flag
    #[arg(long, value_name = "DIR", default_value = "/var/lib/gwfilter")]
    state_dir: PathBuf,
    /// The form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Form,
}

/// The form of what is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// For people: short.
    #[default]
    Text,
    /// For people: all of it.
    Wide,
    /// For programs.
    Json,
}

/// Says what is attached in this network namespace, and what the agent left.
///
/// # Errors
/// The pins cannot be read, or `out` cannot be written.
pub fn run(args: &Args, palette: Palette, out: &mut impl Write) -> anyhow::Result<()> {
    let status = survey::status(&survey::places(&args.state_dir), &programs())
        .context("what is attached here cannot be read (root can)")?;
    let now = survey::now();
    let text = match args.output {
        Form::Json => serde_json::to_string(&status)? + "\n",
        Form::Text => status.text(now, palette),
        Form::Wide => status.wide(now, palette),
    };
    written(out.write_all(text.as_bytes())).map(|_| ())
}

//! `gwfilter status`.

use std::io::Write;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;

use super::{Output, written};
use crate::agent;

/// Arguments of `gwfilter status`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory that the agent was given by the same flag
    #[arg(long, value_name = "DIR", default_value = "/var/lib/gwfilter")]
    state_dir: PathBuf,
    /// The form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Says what is attached in this network namespace, and what the agent left.
///
/// # Errors
/// The pins cannot be read, or `out` cannot be written.
pub fn run(args: &Args, out: &mut impl Write) -> anyhow::Result<()> {
    let context = "what is attached here cannot be read (root can)";
    let status = agent::status(&args.state_dir).context(context)?;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let text = match args.output {
        Output::Json => serde_json::to_string(&status)? + "\n",
        Output::Text => status.text(now),
    };
    written(out.write_all(text.as_bytes())).map(|_| ())
}

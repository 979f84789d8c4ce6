//! `gwfilter counters`.

use std::io::Write;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::{Output, duration, written};
use crate::counted::Counted;
use crate::palette::Palette;
use crate::survey;

/// Less than this, and reading would take most of the time.
const SHORTEST: Duration = Duration::from_millis(100);

/// Arguments of `gwfilter counters`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Goes on, and shows packets a second: one block for each TIME (default 1s)
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "1s", value_parser = duration::parse)]
    watch: Option<Duration>,
    /// Directory that the agent was given by the same flag
    #[arg(long, value_name = "DIR", default_value = "/var/lib/gwfilter")]
    state_dir: PathBuf,
    /// The form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Says what was counted in this network namespace; with `--watch` again and again, until nobody reads it any more.
///
/// # Errors
/// There are no counters, they cannot be read, or `out` cannot be written.
pub fn run(args: &Args, palette: Palette, out: &mut impl Write) -> anyhow::Result<()> {
    if args.watch.is_some_and(|every| every < SHORTEST) {
        bail!("--watch: at least {} ms", SHORTEST.as_millis());
    }
    let places = survey::places(&args.state_dir);
    let read = || survey::counted(&places).context("the counters cannot be read (root can)");
    let Some(every) = args.watch else {
        return said(&read()?, args.output, palette, out).map(|_| ());
    };
    let (mut before, mut read_at) = (read()?, Instant::now());
    loop {
        thread::sleep(every);
        let (now, at) = (read()?, Instant::now());
        let block = now.clone().after(&before, (at - read_at).as_secs_f64());
        if !said(&block, args.output, palette, out)? {
            return Ok(());
        }
        (before, read_at) = (now, at);
    }
}

/// False if nobody reads it any more.
fn said(counted: &Counted, output: Output, palette: Palette, out: &mut impl Write) -> anyhow::Result<bool> {
    let text = match (output, counted.seconds) {
        (Output::Json, _) => serde_json::to_string(counted)? + "\n",
        (Output::Text, None) => counted.text(palette),
        // Blocks stand apart.
        (Output::Text, Some(_)) => counted.text(palette) + "\n",
    };
    written(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

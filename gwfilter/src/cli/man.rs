//! `gwfilter man`: the manual pages, one for each command, from the definition of the command line.

use std::path::PathBuf;

use anyhow::Context;
use clap::Command;

/// Arguments of `gwfilter man`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Folder to write gwfilter.1, gwfilter-check.1 and so on to; it is made if it is not there
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
}

/// Writes the pages. They have no date, so the same program writes the same bytes.
///
/// # Errors
/// The folder cannot be made, or a page not be written.
pub fn run(args: &Args, command: Command) -> anyhow::Result<()> {
    let dir = &args.dir;
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    clap_mangen::generate_to(command, dir)
        .with_context(|| format!("manual pages cannot be written to {}", dir.display()))
}

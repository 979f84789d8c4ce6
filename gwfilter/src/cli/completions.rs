//! `gwfilter completions`: a script for a shell, from the definition of the command line.

use std::io::Write;

use clap::{Command, ValueEnum};
use clap_complete::generate;

use super::written;

/// Arguments of `gwfilter completions`.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Args {
    /// The shell that reads it
    #[arg(value_enum)]
    shell: Shell,
}

/// A shell that operators use on nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// Prints the script.
///
/// # Errors
/// `out` cannot be written.
pub fn run(args: &Args, mut command: Command, out: &mut impl Write) -> anyhow::Result<()> {
    let shell = match args.shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    // The generator does not tell of a closed pipe, so it writes to memory.
    let mut script = Vec::new();
    generate(shell, &mut command, "gwfilter", &mut script);
    written(out.write_all(&script)).map(|_| ())
}

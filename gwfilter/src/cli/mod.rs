//! The command line: one file per verb. Verbs read arguments, call the library and print; they decide nothing.

pub mod check;
pub mod duration;
pub mod explain;
mod manifests;
pub mod run;
pub mod unload;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

use crate::source::Origin;

/// Drops at this node's network card what the Istio ingress gateway would refuse by client address.
#[derive(Debug, Parser)]
#[command(name = "gwfilter", version, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show what would be enforced on a node, what is left to the gateway, and why
    Check(check::Args),
    /// Show what happens to one packet, or to each of many, and which rule decides
    Explain(explain::Args),
    /// Enforce: the agent
    Run(run::Args),
    /// Take all enforcement off this node: detach and unpin
    Unload(unload::Args),
}

/// The form of what is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// `--from`.
#[derive(Clone, Debug, clap::Args)]
pub struct From {
    /// Manifests: a file, a directory (its .yaml, .yml and .json files; not recursive), or - for standard input
    #[arg(long, value_name = "PATH", value_parser = |s: &str| Ok::<_, std::convert::Infallible>(Origin::from(s)))]
    pub from: Origin,
}

/// Whether what was printed could be: false if nobody reads it any more (`| head`), which is no failure.
fn written(result: std::io::Result<()>) -> anyhow::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(anyhow::Error::new(e).context("the output cannot be written")),
    }
}

/// Runs the command line of this process. Errors go to standard error as one chain.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let (mut out, mut err) = (std::io::stdout(), std::io::stderr());
    let (outcome, failure) = match cli.verb {
        Verb::Check(args) => (check::run(&args, &mut out).map(ExitCode::from), ExitCode::from(2)),
        Verb::Explain(args) => (
            explain::run(&args, &mut out, &mut err).map(ExitCode::from),
            ExitCode::from(2),
        ),
        Verb::Run(args) => (run::run(args).map(|()| ExitCode::SUCCESS), ExitCode::FAILURE),
        Verb::Unload(args) => (
            unload::run(&args, &mut out).map(|()| ExitCode::SUCCESS),
            ExitCode::FAILURE,
        ),
    };
    outcome.unwrap_or_else(|error| {
        // Standard error may be closed; there is nobody else to tell.
        let _ = writeln!(std::io::stderr(), "error: {error:#}");
        failure
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}

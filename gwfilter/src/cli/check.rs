//! `gwfilter check`: what would be enforced here, what is left to the gateway, and why.

use super::{From, Output};
use std::io::Write;

/// Arguments of `check`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    from: From,
    /// The node that is meant; without it, one that runs every gateway pod of the manifests
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Sources that no gateway may drop
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    never_drop: Vec<ipnet::IpNet>,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Runs the verb. The exit code is 0, or 1 if a diagnostic is an error.
///
/// # Errors
/// Input that cannot be used at all: the caller prints the chain and exits with 2.
pub fn run(args: &Args, out: &mut impl Write, err: &mut impl Write) -> anyhow::Result<u8> {
    let _ = (args, out, err);
    anyhow::bail!("not here yet")
}

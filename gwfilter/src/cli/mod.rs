//! The command line: one file per verb. Verbs read arguments, call the library and print; they decide nothing.

pub mod address;
pub mod check;
pub mod completions;
pub mod counters;
pub mod doctor;
pub mod duration;
pub mod explain;
pub mod kubectl;
pub mod man;
mod manifests;
pub mod monitor;
pub mod pause;
pub mod progress;
pub mod run;
pub mod status;
pub mod style;
pub mod top;
pub mod unload;
pub mod version;

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand, ValueEnum};

use crate::source::Origin;
use crate::telemetry::chain;
use style::Color;

/// Drops at this node's network card what the Istio ingress gateway would refuse by client address.
#[derive(Debug, Parser)]
#[command(name = "gwfilter", version, max_term_width = 110)]
struct Cli {
    /// Whether output is coloured; JSON never is
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN")]
    color: Color,
    #[command(subcommand)]
    verb: Verb,
}

const CHECK: &str = "\
Example:
  kubectl get svc,po,no,envoyfilters,requestauthentications,authorizationpolicies,gateways.networking.istio.io -A -o yaml \\
    | gwfilter check --from -

What is not given counts as not there: leave out nothing that exists.

Exit: 0; 1 if a diagnostic is an error; 2 for input that cannot be used.";
const EXPLAIN: &str = "\
Example:
  gwfilter explain --from manifests/ --source 198.51.100.7 --dest 203.0.113.10:443

Without --from (root, on a node) the tables in force are asked, with a running agent, with a dead one and under a pause or a lease that is over:
what happens to a packet that comes now.
  gwfilter explain --source 198.51.100.7 --dest 203.0.113.10:443

Exit: 0 for either verdict; 2 for input that cannot be used, tables that cannot be read, or a bad line among the queries.";
const RUN: &str = "\
Needs root, or CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON and a bpffs at /sys/fs/bpf.
The log goes to standard error; RUST_LOG sets its levels (default info).
Enforcement lives in pinned links: it outlives a crash of the agent. `gwfilter unload` takes it off.

Example:
  gwfilter run --from manifests/ --interface eth0 --observe     # first look: counts, drops nothing

Exit: 0 after a signal or an unload; 1 for an error; 2 for wrong arguments.";
const DOCTOR: &str = "\
With --observe it needs root. Of a new connection to a gateway it reads where it comes from, whether it begins with a PROXY header, and of a plaintext
request X-Forwarded-For; nothing else is read, and nothing is kept.

Example:
  gwfilter doctor --from manifests/ --observe 30s

Exit: 0 if nothing is to be mended; 1 if something is; 2 if it cannot be examined.";
const STATUS: &str = "\
Needs root. Works without a running agent: what is attached is asked of the kernel, the rest is what the agent wrote down last.

Exit: 0; 1 if what is attached cannot be read.";
const MONITOR: &str = "\
Needs root, and a running agent. Verdicts are sampled in the kernel while somebody watches, each kind on its own, so that a flood of one does not
hide the others; `(for N)` is how many a line stands for. Filters choose among samples: what is rare in a flood may take a higher --rate to be seen.
Lines go to standard output, notes and the closing figures to standard error.

Example:
  gwfilter monitor --verdict drop --source 198.51.100.0/24

Exit: 0 after Ctrl-C, --for, or when nobody reads any more; 1 if no agent runs here, or it ends.";
const COUNTERS: &str = "\
Needs root. Works without a running agent: what is attached goes on counting. Counters go on over restarts of the agent.

Example:
  gwfilter counters --watch 5s        # packets a second, until Ctrl-C

Exit: 0; 1 if there are no counters, or they cannot be read.";
const TOP: &str = "\
Needs root and a terminal. Works without a running agent, then without sources.

Keys: q ends it, p stops the picture, Tab and the arrows choose and scroll a table, d a w n order gateways and rules, v chooses the verdict
whose sources are shown.

Exit: 0; 1 if there is no terminal, or there are no counters.";
const PAUSE: &str = "\
Needs root. Works with and without a running agent, and outlives its restarts; a restart of the node, or unload, ends it.

Exit: 0; 1 if nothing is pinned here, or it cannot be written.";
const UNLOAD: &str = "\
Needs root. A running agent sees it and ends. Doing it again removes nothing.

Exit: 0; 1 if something could not be removed.";
const COMPLETIONS: &str = "\
Examples:
  gwfilter completions bash > /etc/bash_completion.d/gwfilter
  gwfilter completions zsh > /usr/local/share/zsh/site-functions/_gwfilter
  gwfilter completions fish > ~/.config/fish/completions/gwfilter.fish";

const KUBECTL: &str = "\
Asks the agents of all nodes through the API server, with your kubeconfig and your rights: those of an administrator, or a binding to the Role
gwfilter-plugin. A node that does not answer is a row. As a plugin of kubectl: ln -s $(command -v gwfilter) /usr/local/bin/kubectl-gwfilter

Examples:
  kubectl gwfilter status
  kubectl gwfilter explain --source 198.51.100.7 --dest 203.0.113.10:443
  kubectl gwfilter doctor --observe 30s

Exit: 0 if any node answered; 1 if none did, or nobody can be asked.";

/// What the agents of a cluster enforce, and what they see.
#[derive(Debug, Parser)]
#[command(name = "kubectl gwfilter", bin_name = "kubectl gwfilter", version, max_term_width = 110, after_help = KUBECTL)]
struct Plugin {
    /// Whether output is coloured; JSON never is
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN")]
    color: Color,
    #[command(flatten)]
    args: kubectl::Args,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show what would be enforced on a node, what is left to the gateway, and why
    #[command(after_help = CHECK)]
    Check(check::Args),
    /// Show what happens to one packet, or to each of many, and which rule decides
    #[command(after_help = EXPLAIN)]
    Explain(explain::Args),
    /// Show whether the client address that policies speak of is real, and what mends it if not
    #[command(after_help = DOCTOR)]
    Doctor(doctor::Args),
    /// Enforce: the agent
    #[command(after_help = RUN)]
    Run(run::Args),
    /// Show what is attached on this node, whether an agent runs, and what it enforces
    #[command(after_help = STATUS)]
    Status(status::Args),
    /// Show verdicts as they fall, a few of all of them
    #[command(after_help = MONITOR)]
    Monitor(monitor::Args),
    /// Show how many packets passed and were dropped, by gateway and reason, and by rule
    #[command(after_help = COUNTERS)]
    Counters(counters::Args),
    /// Watch rates by gateway and rule, and whose packets are dropped
    #[command(after_help = TOP)]
    Top(top::Args),
    /// Turn all enforcement on this node into counting: nothing is dropped until `resume`
    #[command(after_help = PAUSE)]
    Pause(pause::PauseArgs),
    /// End a pause: drop again what is refused
    #[command(after_help = PAUSE)]
    Resume(pause::ResumeArgs),
    /// Take all enforcement off this node: detach and unpin
    #[command(after_help = UNLOAD)]
    Unload(unload::Args),
    /// Ask the agents of a cluster: what `kubectl gwfilter` does
    #[command(after_help = KUBECTL)]
    Kubectl(kubectl::Args),
    /// Show what this program is: version, commit, ABI, and the eBPF object that it carries
    Version(version::Args),
    /// Print a script that completes commands and flags in a shell
    #[command(after_help = COMPLETIONS)]
    Completions(completions::Args),
    /// Write the manual pages, for whoever packs gwfilter
    #[command(hide = true)]
    Man(man::Args),
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
    #[arg(long, value_name = "PATH", value_parser = origin)]
    pub from: Origin,
}

/// The value of `--from`.
#[expect(
    clippy::unnecessary_wraps,
    reason = "that is what a parser of values looks like"
)]
fn origin(text: &str) -> Result<Origin, std::convert::Infallible> {
    Ok(Origin::from(text))
}

/// The definition of the command line: what completions, manual pages and the reference are made from.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
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
    let cli = if is_plugin(std::env::args_os().next()) {
        let Plugin { color, args } = Plugin::parse();
        let verb = Verb::Kubectl(args);
        Cli { color, verb }
    } else {
        Cli::parse()
    };
    let (mut out, mut err) = (std::io::stdout(), std::io::stderr());
    let (palette, loud) = (cli.color.out(&out), cli.color.err(&err));
    let (outcome, failure) = match cli.verb {
        Verb::Check(args) => (
            check::run(&args, palette, &mut out).map(ExitCode::from),
            ExitCode::from(2),
        ),
        Verb::Doctor(args) => (
            doctor::run(&args, palette, &mut out).map(ExitCode::from),
            ExitCode::from(2),
        ),
        Verb::Explain(args) => (
            explain::run(&args, palette, &mut out, &mut err).map(ExitCode::from),
            ExitCode::from(2),
        ),
        Verb::Run(args) => (run::run(args).map(ExitCode::from), ExitCode::FAILURE),
        Verb::Status(args) => (
            status::run(&args, palette, &mut out).map(|()| ExitCode::SUCCESS),
            ExitCode::FAILURE,
        ),
        Verb::Monitor(args) => (
            monitor::run(&args, palette, &mut out, &mut err).map(|()| ExitCode::SUCCESS),
            ExitCode::FAILURE,
        ),
        Verb::Counters(args) => (
            counters::run(&args, palette, &mut out).map(|()| ExitCode::SUCCESS),
            ExitCode::FAILURE,
        ),
        Verb::Top(args) => (top::run(&args), ExitCode::FAILURE),
        Verb::Pause(args) => (
            pause::pause(&args, &mut out).map(|()| ExitCode::SUCCESS),
            ExitCode::FAILURE,
        ),
        Verb::Resume(args) => (
            pause::resume(&args, &mut out).map(|()| ExitCode::SUCCESS),
            ExitCode::FAILURE,
        ),
        Verb::Unload(args) => (
            unload::run(&args, &mut out).map(|()| ExitCode::SUCCESS),
            ExitCode::FAILURE,
        ),
        Verb::Kubectl(args) => (
            kubectl::run(&args, palette, &mut out).map(ExitCode::from),
            ExitCode::FAILURE,
        ),
        Verb::Version(args) => (
            version::run(&args, &mut out).map(|()| ExitCode::SUCCESS),
            ExitCode::FAILURE,
        ),
        Verb::Completions(args) => (
            completions::run(&args, command(), &mut out).map(|()| ExitCode::SUCCESS),
            ExitCode::FAILURE,
        ),
        Verb::Man(args) => (
            man::run(&args, command()).map(|()| ExitCode::SUCCESS),
            ExitCode::FAILURE,
        ),
    };
    outcome.unwrap_or_else(|error| {
        // Standard error may be closed; there is nobody else to tell.
        let _ = writeln!(
            std::io::stderr(),
            "{} {}",
            loud.bad("error:"),
            chain(error.as_ref())
        );
        failure
    })
}

/// Whether kubectl has started this program as its plugin: by the name that it looks for.
fn is_plugin(program: Option<std::ffi::OsString>) -> bool {
    let program = program.map(std::path::PathBuf::from);
    program.is_some_and(|path| path.file_stem().is_some_and(|name| name == "kubectl-gwfilter"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
        Plugin::command().debug_assert();
    }

    #[test]
    fn the_name_of_the_program_then_plugin_or_not() {
        for (name, wanted) in [
            ("/usr/local/bin/kubectl-gwfilter", true),
            ("kubectl-gwfilter", true),
            ("kubectl-gwfilter.exe", true),
            ("/usr/bin/gwfilter", false),
            ("kubectl-gwfilter2", false),
        ] {
            assert_eq!(is_plugin(Some(name.into())), wanted, "{name}");
        }
        assert!(!is_plugin(None));
    }
}

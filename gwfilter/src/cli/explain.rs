//! `gwfilter explain`: what the kernel tables would do with one packet, or with many.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, IsTerminal, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, bail};

use super::manifests::Node;
use super::progress::Progress;
use super::{Output, address};
use crate::diagnostic::Severity;
use crate::explain::{Answer, Explainer, Query, QueryError, headline};
use crate::gateway::model::Protocol;
use crate::palette::Palette;
use crate::source::Origin;
use crate::survey::{self, Survey};

/// Arguments of `explain`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Manifests: a file, a directory (its .yaml, .yml and .json files; not recursive), or - for standard input; without it, the tables in force on
    /// this node
    #[arg(long, value_name = "PATH", value_parser = super::origin)]
    from: Option<Origin>,
    #[command(flatten)]
    node: Node,
    /// Directory that the agent was given by the same flag
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/var/lib/gwfilter",
        conflicts_with = "from"
    )]
    state_dir: PathBuf,
    /// The packet's source address
    #[arg(long, value_name = "IP", required_unless_present = "queries")]
    source: Option<IpAddr>,
    /// The packet's destination (IPv6 in brackets)
    #[arg(long, value_name = "IP:PORT", value_parser = address::endpoint, required_unless_present = "queries")]
    dest: Option<SocketAddr>,
    /// The packet's transport protocol
    #[arg(long, value_name = "PROTOCOL", default_value = "tcp", value_parser = ["tcp", "udp"])]
    protocol: String,
    /// The source in the PROXY header that the packet carries
    #[arg(long, value_name = "IP:PORT", value_parser = address::endpoint, requires = "proxy_dest")]
    proxy_source: Option<SocketAddr>,
    /// The destination in the PROXY header that the packet carries
    #[arg(long, value_name = "IP:PORT", value_parser = address::endpoint, requires = "proxy_source")]
    proxy_dest: Option<SocketAddr>,
    /// Queries as JSON lines, from a file or - for standard input, instead of the flags above; one answer line for each
    #[arg(long, value_name = "FILE", conflicts_with_all = ["source", "dest", "proxy_source", "proxy_dest"])]
    queries: Option<PathBuf>,
    /// The form of the answer; answers to --queries are JSON lines always
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Runs the verb. The exit code is 0 for either verdict, 2 if a query line could not be read.
///
/// # Errors
/// Input that cannot be used at all, or an answer on which tables and evaluator differ: the caller prints the
/// chain and exits with 2.
pub fn run(args: &Args, palette: Palette, out: &mut impl Write, err: &mut impl Write) -> anyhow::Result<u8> {
    let Some(from) = &args.from else {
        let mut here = Survey::open(&survey::places(&args.state_dir))
            .context("the tables in force on this node cannot be asked; --from asks manifests")?;
        let mut ask = |query: &Query| here.explain(query);
        return asked(args, palette, out, &mut ask);
    };
    if *from == Origin::Stdin && args.queries.as_ref().is_some_and(|q| q.as_os_str() == "-") {
        bail!("standard input cannot hold both manifests and queries: give --from or --queries a file");
    }
    let built = args.node.build(from)?;
    // What is merely left to the gateway is no fault; the notes of an answer say where it bears on one.
    let faults = built
        .diagnostics
        .iter()
        .filter(|d| d.severity != Severity::Info && d.code != "left-to-gateway");
    for d in faults {
        // Standard error may be closed; the answer counts.
        let _ = writeln!(err, "{d}");
    }
    let explainer = Explainer::new(built).context("the manifests ask for more than a node can hold")?;
    let mut ask = |query: &Query| Ok(explainer.answer(query)?);
    asked(args, palette, out, &mut ask)
}

/// Who answers: manifests, or the tables of this node.
type Ask<'a> = dyn FnMut(&Query) -> anyhow::Result<Answer> + 'a;

fn asked(args: &Args, palette: Palette, out: &mut impl Write, ask: &mut Ask<'_>) -> anyhow::Result<u8> {
    match (&args.queries, args.source, args.dest) {
        (Some(path), _, _) => many(ask, path, out),
        (None, Some(source), Some(dest)) => {
            let protocol = if args.protocol == "udp" {
                Protocol::Udp
            } else {
                Protocol::Tcp
            };
            let query = Query::new(source, dest, protocol, args.proxy_source.zip(args.proxy_dest))?;
            let answer = ask(&query)?;
            let print = match args.output {
                Output::Text => text(&query, &answer, args.from.is_some(), palette, out),
                Output::Json => line(&answer, out).and_then(|()| out.flush()),
            };
            super::written(print)?;
            Ok(0)
        }
        _ => bail!("--source and --dest are needed, or --queries"),
    }
}

fn many(ask: &mut Ask<'_>, path: &PathBuf, out: &mut impl Write) -> anyhow::Result<u8> {
    let input: Box<dyn Read> = if path.as_os_str() == "-" {
        Box::new(io::stdin().lock())
    } else {
        Box::new(File::open(path).with_context(|| format!("queries cannot be read from {}", path.display()))?)
    };
    let mut input = BufReader::with_capacity(1 << 16, input);
    let mut out = BufWriter::new(out);
    let (mut bad, mut failed) = (false, None);
    let mut bytes = Vec::new();
    // Where answers can be seen, they are the progress; and a program that asks one by one knows how far it is.
    let asked = path.as_os_str() == "-" && !io::stderr().is_terminal();
    let progress = if io::stdout().is_terminal() || asked {
        Progress::hidden()
    } else {
        Progress::new("queries answered", None)
    };
    for number in 1.. {
        bytes.clear();
        let read = input.read_until(b'\n', &mut bytes);
        if read.with_context(|| format!("queries cannot be read from {}", path.display()))? == 0 {
            break;
        }
        let answer = Query::from_json(&bytes)
            .map_err(anyhow::Error::from)
            .and_then(|q| ask(&q));
        let print = match answer {
            Ok(answer) => line(&answer, &mut out),
            Err(error) => {
                let text = serde_json::json!({ "error": format!("{error:#}") });
                if error.is::<QueryError>() {
                    bad = true;
                } else {
                    failed = failed.or(Some(error));
                }
                line(&text, &mut out)
            }
        };
        // Whoever writes one query and waits for its answer gets it; a file is answered in large blocks.
        let print = if input.buffer().is_empty() {
            print.and_then(|()| out.flush())
        } else {
            print
        };
        progress.at(number);
        if !super::written(print)? {
            return Ok(0);
        }
    }
    drop(progress);
    super::written(out.flush())?;
    match failed {
        Some(error) => Err(error),
        None => Ok(if bad { 2 } else { 0 }),
    }
}

fn line(value: &impl serde::Serialize, out: &mut impl Write) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    out.write_all(b"\n")
}

fn text(query: &Query, answer: &Answer, somewhere: bool, p: Palette, out: &mut impl Write) -> io::Result<()> {
    let word = if answer.verdict == "drop" {
        p.bad("DROP")
    } else {
        p.good("pass")
    };
    writeln!(out, "{word}: {} ({})", headline(answer.reason), answer.reason)?;
    writeln!(out, "  packet          {} -> {}", query.source, query.key())?;
    if let Some((client, destination)) = query.proxy {
        writeln!(out, "  PROXY header    {client} -> {destination}")?;
    }
    writeln!(
        out,
        "  gateway         {}",
        answer.gateway.as_deref().unwrap_or("none")
    )?;
    if let Some(from) = &answer.client_address {
        writeln!(out, "  client address  {from}")?;
    }
    writeln!(
        out,
        "  policy          {}",
        answer.policy.as_deref().unwrap_or("none decides")
    )?;
    if let Some(hook) = answer.hook {
        let note = match hook {
            "xdp" if somewhere => " (tc where the card's driver has no XDP)",
            _ => "",
        };
        writeln!(out, "  judged in       {hook}{note}")?;
    }
    for note in &answer.notes {
        writeln!(out, "  - {note}")?;
    }
    out.flush()
}

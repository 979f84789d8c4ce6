//! `cargo xtask VERB`: how gwfilter is built, checked, tested and shown.
//!
//! One verb is one file. Nothing here is part of what runs on a node. Verbs that need a tool install it
//! (`setup`), so a fresh clone on a bare machine needs only Rust and root.

mod bench;
mod build_ebpf;
mod build_release;
mod check;
mod dashboard;
mod demo;
mod dist;
mod docs;
mod image;
mod progress;
mod run;
mod setup;
mod setup_kube;
mod setup_prometheus;
mod test;
mod tidy;
mod toolchain;
mod vm;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Build, check, test and show gwfilter.
#[derive(Parser)]
#[command(bin_name = "cargo xtask", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Install what is missing to build, check, test and show gwfilter, and say what.
    Setup,
    /// Build the eBPF object to target/bpf/gwfilter and print its path, size and hash.
    BuildEbpf,
    /// Build the eBPF object, then the release binary with the object inside.
    Build,
    /// Build a container image of a static agent as an OCI archive, without any container tool.
    Image(image::Options),
    /// Build what users download: a static program with completions, manual pages and manifests, the chart, a bill of materials, hashes.
    Dist(dist::Options),
    /// Write the pages of the reference that are made from the code; --check fails if one is out of date.
    Docs(docs::Options),
    /// Formatting, clippy for both sides, docs, licences, tidy.
    Check,
    /// Walk through Istio's "Ingress Access Control" with two clients, a node and a gateway in namespaces.
    Demo,
    /// Measure what gwfilter costs, against something else each time.
    Bench(bench::Options),
    /// Draw what the Grafana dashboard shows of two minutes of a real run, by its queries.
    Dashboard(dashboard::Options),
    /// Run groups of tests; each ends with one line, and so does the whole.
    Test(test::Options),
    /// The first process of a guest of the group `vm`.
    #[command(hide = true)]
    VmGuest,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.verb {
        Verb::Setup => setup::main(),
        Verb::BuildEbpf => build_ebpf::main(),
        Verb::Build => build_release::main(),
        Verb::Image(options) => image::main(&options),
        Verb::Dist(options) => dist::main(&options),
        Verb::Docs(options) => docs::main(options),
        Verb::Check => check::main(),
        Verb::Demo => demo::main(),
        Verb::Bench(options) => bench::main(&options),
        Verb::Dashboard(options) => dashboard::main(&options),
        Verb::Test(options) => test::main(&options),
        Verb::VmGuest => vm::guest::main(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

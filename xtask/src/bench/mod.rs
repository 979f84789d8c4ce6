//! `bench`: what gwfilter costs, as figures that can be compared: each against something else, both measured in turn in one run.

mod plot;
mod text;
mod written;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use serde_json::{Value, json};
use xtask::envoy::Release;
use xtask::{paths, rights};

use crate::build_ebpf;
use crate::run::{cargo, read, say};
use crate::setup::{self, Part, Voice};

/// What `bench` is asked for.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Only these figures: whole names, or what they begin with
    #[arg(long, value_name = "ID,…", value_delimiter = ',')]
    only: Vec<String>,
    /// Short lists and fewer rounds: a look, not a figure
    #[arg(long)]
    quick: bool,
    /// Other lengths of lists, ascending
    #[arg(long, value_name = "N,…", value_delimiter = ',')]
    entries: Vec<usize>,
    /// Write figures, plots and a line of the history into this folder, as docs/bench has them
    #[arg(long, value_name = "FOLDER")]
    write: Option<PathBuf>,
    /// The form of the output
    #[arg(short, long, value_enum, default_value_t)]
    output: Form,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Form {
    #[default]
    Text,
    Json,
}

impl Options {
    /// Whether everything is measured, as it is to be kept.
    fn complete(&self) -> bool {
        self.only.is_empty() && self.entries.is_empty() && !self.quick
    }
}

/// The verb.
pub(crate) fn main(options: &Options) -> Result<()> {
    rights::require_root()?;
    if let Some(folder) = &options.write {
        written::may_replace(folder, options.complete())?;
    }
    let mut found = Found {
        load: load(),
        ..Found::default()
    };
    setup::ensure(&[Part::Ebpf, Part::Lab], Voice::Changes)?;
    for (part, name) in [(Part::Envoy, "Envoy"), (Part::Peers, "peers")] {
        // What is not there has no figures; the rest has.
        if let Err(error) = setup::ensure(&[part], Voice::Changes) {
            found.fail(&format!("installing {name}"), &format!("{error:#}"));
        }
    }
    if build_ebpf::require_fresh().is_err() {
        build()?;
    }
    let mut cargo = cargo();
    cargo
        // As users have the agent; how the tests are built is for the time that the build takes.
        .args([
            "test",
            "--release",
            "--quiet",
            "--locked",
            "--all-features",
            "--test",
            "bench",
        ])
        .env("GWFILTER_BENCH_ONLY", options.only.join(","));
    if !options.entries.is_empty() {
        let lengths: Vec<String> = options.entries.iter().map(ToString::to_string).collect();
        cargo.env("GWFILTER_BENCH_ENTRIES", lengths.join(","));
    }
    if options.quick {
        cargo.env("GWFILTER_BENCH_QUICK", "1");
    }
    // Each figure goes to standard error as it is measured.
    let output = cargo
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("starting the bench")?;
    found.read(&String::from_utf8_lossy(&output.stdout))?;
    if !output.status.success() && found.failures.is_empty() {
        found.fail("the bench", &format!("it ended with {}", output.status));
    }
    let report = found.report(options.complete());
    if let Some(folder) = &options.write {
        written::write(folder, &report)?;
    }
    match options.output {
        Form::Json => {
            let mut out = std::io::stdout().lock();
            writeln!(out, "{report}").context("writing the report")?;
        }
        Form::Text => say(text::report(&report)),
    }
    let failures = text::list(&report, "failures");
    if !failures.is_empty() {
        bail!(
            "{} parts or peers failed; the others are measured",
            failures.len()
        );
    }
    Ok(())
}

/// Builds the eBPF object. What that says goes to standard error: standard output is the figures'.
fn build() -> Result<()> {
    let own = std::env::current_exe().context("finding this program")?;
    let status = Command::new(own)
        .arg("build-ebpf")
        .stdout(std::io::stderr())
        .status()
        .context("starting build-ebpf")?;
    if !status.success() {
        bail!("build-ebpf ended with {status}");
    }
    Ok(())
}

/// What the measuring has said, a JSON object a line.
#[derive(Debug, Default)]
struct Found {
    /// How busy the machine was before.
    load: Option<f64>,
    ratios: Vec<Value>,
    series: Vec<Value>,
    failures: Vec<Value>,
    times: Vec<Value>,
}

impl Found {
    fn fail(&mut self, part: &str, reason: &str) {
        self.failures.push(json!({"failed": part, "reason": reason}));
    }

    fn read(&mut self, text: &str) -> Result<()> {
        for line in text.lines().filter(|line| line.starts_with('{')) {
            let value: Value = serde_json::from_str(line).with_context(|| format!("no JSON: {line}"))?;
            let kind = if value.get("failed").is_some() {
                &mut self.failures
            } else if value.get("part").is_some() {
                &mut self.times
            } else if value.get("plot").is_some() {
                &mut self.series
            } else {
                &mut self.ratios
            };
            kind.push(value);
        }
        Ok(())
    }

    fn report(self, complete: bool) -> Value {
        json!({
            "complete": complete, "machine": machine(self.load), "ratios": self.ratios, "series": self.series,
            "failures": self.failures, "times": self.times,
        })
    }
}

/// Processes that ran or wanted to, in the last minute.
fn load() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/loadavg").ok()?;
    text.split_whitespace().next()?.parse().ok()
}

/// What it was measured on.
fn machine(load: Option<f64>) -> Value {
    let file = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = file("/proc/cpuinfo");
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map(|rest| rest.trim_start_matches([' ', '\t', ':']).to_owned());
    let said = |program: &str, arguments: &[&str]| {
        let text = read(Command::new(program).current_dir(paths::root()).args(arguments)).unwrap_or_default();
        text.lines().next().unwrap_or_default().trim().to_owned()
    };
    let virtualization = read(&mut Command::new("lscpu")).unwrap_or_default();
    let hypervisor = virtualization
        .lines()
        .find_map(|line| line.strip_prefix("Hypervisor vendor:"))
        .map(str::trim);
    let memory = file("/proc/meminfo");
    let memory = memory
        .lines()
        .next()
        .and_then(|line| line.split_whitespace().nth(1));
    json!({
        "cpu": model,
        "memory_kib": memory.and_then(|kib| kib.parse::<u64>().ok()),
        "virtual": cpu.contains(" hypervisor"),
        "hypervisor": hypervisor,
        "envoy": Release::Newest.version(),
        "commit": said("git", &["rev-parse", "--short", "HEAD"]),
        "date": said("date", &["-u", "+%Y-%m-%d"]),
        "nft": said("nft", &["--version"]),
        "ipset": said("ipset", &["--version"]),
        "iptables": said("iptables", &["--version"]),
        "xdp-tools": said("dpkg-query", &["-W", "-f", "${Version}", "xdp-tools"]),
        "cpus": cpu.lines().filter(|line| line.starts_with("processor")).count(),
        "kernel": file("/proc/sys/kernel/osrelease").trim(),
    "load before": load,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_measuring_says_then_figures_plots_failures_and_times() {
        let said = "\nrunning\n{\"id\":\"a\",\"value\":9.5}\n{\"plot\":\"p\",\"line\":\"x\",\"points\":[]}\n\
            {\"failed\":\"f\",\"reason\":\"r\"}\n{\"part\":\"b-\",\"seconds\":2}\n";
        let mut found = Found::default();
        found.read(said).unwrap();
        let report = found.report(true);
        assert_eq!(report["ratios"][0]["id"], "a");
        assert_eq!(report["series"][0]["line"], "x");
        assert_eq!(report["failures"][0]["reason"], "r");
        assert_eq!(report["times"][0]["seconds"], 2);
        assert!(Found::default().read("{broken").is_err());
    }

    #[test]
    fn the_machine_is_described() {
        let machine = machine(load());
        assert!(machine["cpus"].as_u64().is_some_and(|cpus| cpus > 0), "{machine}");
        assert!(
            machine["kernel"]
                .as_str()
                .is_some_and(|kernel| !kernel.is_empty())
        );
    }
}

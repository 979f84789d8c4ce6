//! `bench`: what gwfilter costs, as figures that can be compared: each against something else, both measured in turn in one run.

use std::io::Write as _;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use serde_json::{Value, json};
use xtask::{paths, rights};

use crate::build_ebpf;
use crate::run::{read, say};
use crate::setup::{self, Part, Voice};

/// What `bench` is asked for.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Only these figures
    #[arg(long, value_name = "ID,…", value_delimiter = ',')]
    only: Vec<String>,
    /// Fewer rounds: a look, not a figure
    #[arg(long)]
    quick: bool,
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

/// The verb.
pub(crate) fn main(options: &Options) -> Result<()> {
    rights::require_root()?;
    setup::ensure(&[Part::Ebpf, Part::Lab], Voice::Changes)?;
    if build_ebpf::require_fresh().is_err() {
        build()?;
    }
    let mut cargo = Command::new("cargo");
    cargo
        .current_dir(paths::root())
        // As the tests are built: what one of the two has built serves the other.
        .args(["test", "--quiet", "--locked", "--all-features", "--test", "bench"])
        .env("GWFILTER_BENCH_ONLY", options.only.join(","));
    if options.quick {
        cargo.env("GWFILTER_BENCH_QUICK", "1");
    }
    let ratios = ratios(&read(&mut cargo)?)?;
    for id in &options.only {
        if !ratios.iter().any(|ratio| ratio.get("id") == Some(&json!(id))) {
            bail!("there is no figure `{id}`");
        }
    }
    match options.output {
        Form::Json => {
            let report = json!({"machine": machine(), "ratios": ratios, "series": []});
            let mut out = std::io::stdout().lock();
            writeln!(out, "{report}").context("writing the report")
        }
        Form::Text => {
            for ratio in &ratios {
                say(line(ratio));
            }
            Ok(())
        }
    }
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

/// The figures, a JSON object a line.
fn ratios(text: &str) -> Result<Vec<Value>> {
    text.lines()
        .filter(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str(line).with_context(|| format!("no JSON: {line}")))
        .collect()
}

/// `id  value (range)  goal  met`, and what it is of.
fn line(ratio: &Value) -> String {
    let text = |key: &str| ratio.get(key).and_then(Value::as_str).unwrap_or("?");
    let number = |value: Option<&Value>| value.and_then(Value::as_f64).unwrap_or(f64::NAN);
    let range = |at: usize| number(ratio.get("range").and_then(|range| range.get(at)));
    let met = ratio.get("met").and_then(Value::as_bool) == Some(true);
    format!(
        "{}: {:.1} ({:.1} to {:.1}), goal {:.1}: {}; {}",
        text("id"),
        number(ratio.get("value")),
        range(0),
        range(1),
        number(ratio.get("goal")),
        if met { "met" } else { "missed" },
        text("of"),
    )
}

/// What it was measured on.
fn machine() -> Value {
    let file = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = file("/proc/cpuinfo");
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map(|rest| rest.trim_start_matches([' ', '\t', ':']).to_owned());
    json!({
        "cpu": model,
        "cpus": cpu.lines().filter(|line| line.starts_with("processor")).count(),
        "kernel": file("/proc/sys/kernel/osrelease").trim(),
        "load": file("/proc/loadavg").split_whitespace().next().and_then(|load| load.parse::<f64>().ok()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_measuring_says_then_figures_and_a_line_for_each() {
        let said = "\nrunning\n{\"id\":\"a\",\"value\":9.5,\"goal\":15.0,\"met\":true,\"range\":[9.0,11.0],\"of\":\"x\"}\n";
        let ratios = ratios(said).unwrap();
        assert_eq!(ratios.len(), 1);
        assert_eq!(line(&ratios[0]), "a: 9.5 (9.0 to 11.0), goal 15.0: met; x");
        assert!(super::ratios("{broken").is_err());
    }

    #[test]
    fn the_machine_is_described() {
        let machine = machine();
        assert!(machine["cpus"].as_u64().is_some_and(|cpus| cpus > 0), "{machine}");
        assert!(
            machine["kernel"]
                .as_str()
                .is_some_and(|kernel| !kernel.is_empty())
        );
    }
}

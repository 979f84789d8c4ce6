//! `test [GROUP]…`: runs groups of tests and closes each with one line, `N passed, N failed`, and the whole run with another.
//!
//! A group that could not be built or started counts as one failure: nothing is skipped silently.

mod fuzz;
mod programs;
mod tally;

use std::time::{Duration, Instant};

use anyhow::Result;
use clap::ValueEnum;
use nix::sys::resource::{UsageWho, getrusage};
use xtask::rights;

pub(crate) use programs::{built, static_agent};
pub(crate) use tally::{Tally, closing_line};

use crate::run::say;
use crate::setup::{self, Part, Voice};
use crate::{build_ebpf, check, dist, image, vm};
use programs::Targets;

/// Tests that belong together by what they need.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Group {
    /// Formatting, lints, docs, licences, tidy.
    Check,
    /// All that needs no rights.
    Unit,
    /// Programs loaded into the running kernel, and real sockets in namespaces; root.
    Kernel,
    /// The differential tests against real Envoys; root.
    Oracle,
    /// The agent in a cluster: a real API server, network namespaces as nodes; a real Prometheus; and the commands of the book; root.
    Kube,
    /// PROXY headers end to end: haproxy and nginx write them, Envoy reads them; root.
    Proxy,
    /// The leak meter: no denied packet in, no allowed packet lost, whatever happens to the agent; root, and most of two CPUs.
    Leak,
    /// A few ratios of the bench with generous bounds; root, and two CPUs.
    Bench,
    /// The kernel tests and the agent on old and new kernels, in QEMU; root, and Debian's mirrors for what is not there yet.
    Vm,
    /// Each fuzz target for a short while.
    Fuzz,
}

/// What `test` is asked for.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The groups to run; none means all.
    groups: Vec<Group>,
    /// How many random policy sets the oracle tries.
    #[arg(long, value_name = "N")]
    cases: Option<u32>,
    /// How many random PROXY headers the oracle tries.
    #[arg(long, value_name = "N")]
    headers: Option<u32>,
    /// The leak meter's long form, three times: a quarter of an hour instead of a minute. And the image and the archive that the group `kube`
    /// runs are release builds, as users have them.
    #[arg(long)]
    full: bool,
    /// How long each fuzz target runs.
    #[arg(long, value_name = "SECONDS", default_value_t = 20)]
    fuzz_seconds: u32,
    #[command(flatten)]
    vm: vm::Matrix,
}

/// The verb.
pub(crate) fn main(options: &Options) -> Result<()> {
    let groups = if options.groups.is_empty() {
        Group::value_variants()
    } else {
        options.groups.as_slice()
    };
    let mut whole = Tally::default();
    let mut lines = Vec::new();
    let mut part = |name: &str, run: &dyn Fn() -> Result<Tally>| {
        let began = (Instant::now(), cpu_of_children());
        say(format_args!("\n==== {name}"));
        let tally = run().unwrap_or_else(|error| {
            say(format_args!("{name}: {error:#}"));
            Tally { passed: 0, failed: 1 }
        });
        let cpu = cpu_of_children().saturating_sub(began.1);
        let (took, cpu) = (began.0.elapsed().as_secs(), cpu.as_secs());
        lines.push(format!("  {name:<7} {tally} in {took} s ({cpu} s of processor)"));
        say(tally);
        whole.add(tally);
    };
    if groups.len() > 1 {
        part("build", &|| build(groups));
    }
    for &group in groups {
        part(&format!("{group:?}").to_lowercase(), &|| {
            run_group(group, options)
        });
    }
    say(format_args!("\n==== all\n{}", lines.join("\n")));
    say(whole);
    whole.verdict("test")
}

/// What the processes that were started and waited for have used of the processors.
fn cpu_of_children() -> Duration {
    let time = |time: nix::sys::time::TimeVal| {
        let micros = time
            .tv_sec()
            .saturating_mul(1_000_000)
            .saturating_add(time.tv_usec());
        Duration::from_micros(u64::try_from(micros).unwrap_or_default())
    };
    getrusage(UsageWho::RUSAGE_CHILDREN)
        .map(|usage| time(usage.user_time()) + time(usage.system_time()))
        .unwrap_or_default()
}

/// Builds what the groups run, at once. The eBPF object comes first: the agent carries it.
fn build(groups: &[Group]) -> Result<Tally> {
    let mut all = Targets::default();
    for group in groups {
        all = all.with(group.targets()?);
    }
    if !all.is_empty() {
        setup::ensure(&[Part::Ebpf], Voice::Changes)?;
        build_ebpf::build_if_stale()?;
        all.build()?;
    }
    Ok(Tally::default())
}

fn run_group(group: Group, options: &Options) -> Result<Tally> {
    if group.needs_root() {
        rights::require_root()?;
    }
    setup::ensure(group.parts(options), Voice::Changes)?;
    if group.parts(options).contains(&Part::Ebpf) {
        build_ebpf::build_if_stale()?;
    }
    match group {
        Group::Check => check::group(),
        Group::Unit => {
            let mut tally = group.run(options)?;
            tally.add(programs::examples()?);
            Ok(tally)
        }
        Group::Kube => {
            // The tests of `deploy/` run what is in it.
            image::main(&image::Options::for_tests(!options.full))?;
            dist::main(&dist::Options::for_tests(!options.full))?;
            group.run(options)
        }
        Group::Kernel | Group::Oracle | Group::Proxy | Group::Leak | Group::Bench => group.run(options),
        Group::Vm => vm::group(&options.vm),
        Group::Fuzz => fuzz::group(options.fuzz_seconds),
    }
}

impl Group {
    /// What its test targets need; none where it has no targets of its own, or those that need none.
    fn features(self) -> &'static [&'static str] {
        match self {
            Self::Check | Self::Unit | Self::Vm | Self::Fuzz => &[],
            Self::Kernel => &["lab-tests", "kernel-tests"],
            Self::Oracle => &["oracle-tests"],
            Self::Kube => &["kube-tests"],
            Self::Proxy => &["proxy-tests"],
            Self::Leak => &["leak-tests"],
            Self::Bench => &["bench"],
        }
    }

    fn needs_root(self) -> bool {
        !matches!(self, Self::Check | Self::Unit | Self::Fuzz)
    }

    /// What has to be installed.
    fn parts(self, options: &Options) -> &'static [Part] {
        match self {
            // It installs what it needs itself, as it does without this verb.
            Self::Check | Self::Unit => &[],
            Self::Kernel => &[Part::Ebpf, Part::Lab],
            Self::Oracle => &[Part::Ebpf, Part::Lab, Part::Envoy],
            Self::Kube => &[
                Part::Ebpf,
                Part::Lab,
                Part::Kube,
                Part::Proxy,
                Part::Book,
                Part::Prometheus,
            ],
            Self::Proxy => &[Part::Ebpf, Part::Lab, Part::Envoy, Part::Proxy],
            Self::Leak if options.full => &[Part::Ebpf, Part::Lab, Part::Kube],
            Self::Leak | Self::Bench => &[Part::Ebpf, Part::Lab],
            Self::Vm => &[Part::Ebpf, Part::Lab, Part::Vm],
            Self::Fuzz => &[Part::Fuzz],
        }
    }

    /// The test targets that it runs.
    fn targets(self) -> Result<Targets> {
        match self {
            Self::Check | Self::Fuzz => Ok(Targets::default()),
            Self::Unit => Targets::plain(),
            Self::Vm => Ok(Targets::named(&vm::programs())),
            Self::Kernel | Self::Oracle | Self::Kube | Self::Proxy | Self::Leak | Self::Bench => {
                Targets::that_need(self.features())
            }
        }
    }

    fn run(self, options: &Options) -> Result<Tally> {
        let sizes = match self {
            Self::Oracle => vec![
                (
                    "GWFILTER_ORACLE_CASES",
                    options.cases.map(|size| size.to_string()),
                ),
                (
                    "GWFILTER_ORACLE_HEADERS",
                    options.headers.map(|size| size.to_string()),
                ),
            ],
            Self::Leak => vec![("GWFILTER_LEAK_FULL", options.full.then(|| "1".to_owned()))],
            // Each test has an API server and runs kubectl, in Go: what they spend on small heaps is a sixth of the whole.
            Self::Kube => vec![("GOGC", Some("400".to_owned()))],
            Self::Bench => vec![("GWFILTER_BENCH_GUARD", Some("1".to_owned()))],
            _ => Vec::new(),
        };
        let environment: Vec<_> = sizes
            .into_iter()
            .filter_map(|(key, value)| Some((key, value?)))
            .collect();
        self.targets()?.run(&environment)
    }
}

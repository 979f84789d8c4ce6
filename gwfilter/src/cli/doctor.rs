//! `gwfilter doctor`: whether the client address that policies speak of is real, and what mends it if not.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail, ensure};

use super::progress::Progress;
use super::{Output, duration, manifests, origin};
use crate::agent::RUN_DIR;
use crate::client::{self, Agent};
use crate::dataplane::choice::{self, World};
use crate::dataplane::netlink::Netlink;
use crate::dataplane::observe::{self, LONGEST};
use crate::doctor::{self, Patient, Report};
use crate::gateway::{self, setup};
use crate::node::NodeFacts;
use crate::palette::Palette;
use crate::source::Origin;
use crate::survey::{self, SurveyError};
use crate::{params, pipeline};

/// What goes on while traffic is looked at, before the seconds.
pub(super) const OBSERVED: &str = "seconds of traffic observed";
/// How long the agent may take beside the look itself.
const ANSWER: Duration = Duration::from_secs(30);

/// Arguments of `gwfilter doctor`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Manifests: a file, a directory (its .yaml, .yml and .json files; not recursive), or - for standard input. Without it, the
    /// agent of this node is asked
    #[arg(long, value_name = "PATH", value_parser = origin)]
    from: Option<Origin>,
    /// The node that is meant; without it, one that runs every gateway pod of the manifests
    #[arg(long, value_name = "NAME", requires = "from")]
    node: Option<String>,
    /// Look at the beginnings of new connections to the gateways for so long, at most 10m; needs root
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    observe: Option<Duration>,
    /// Interface to look at; may be repeated. Without it: those that `run` would serve
    #[arg(long, value_name = "NAME", requires_all = ["observe", "from"])]
    interface: Vec<String>,
    /// Only this gateway
    #[arg(long, value_name = "NAMESPACE/NAME")]
    gateway: Option<String>,
    /// The form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Runs the verb. The exit code is 0 if there is nothing to mend, or 1.
///
/// # Errors
/// No agent answers, the manifests cannot be used, or the traffic cannot be looked at: the caller prints the chain and exits with 2.
pub fn run(args: &Args, palette: Palette, out: &mut impl Write) -> anyhow::Result<u8> {
    if let Some(time) = args.observe {
        ensure!(
            !time.is_zero() && time <= LONGEST,
            "--observe takes a time of at most {} s",
            LONGEST.as_secs()
        );
    }
    let progress = args.observe.map(|time| Progress::timed(OBSERVED, time));
    let report = match &args.from {
        Some(from) => examine(args, from)?,
        None => ask(args)?,
    };
    drop(progress);
    let print = match args.output {
        Output::Text => doctor::text::write(&report, palette, out),
        Output::Json => serde_json::to_writer_pretty(&mut *out, &report)
            .map_err(std::io::Error::from)
            .and_then(|()| writeln!(out)),
    };
    super::written(print)?;
    Ok(u8::from(!report.content()))
}

/// What the agent of this node says.
fn ask(args: &Args) -> anyhow::Result<Report> {
    let time = args.observe.map(|time| format!("{}ms", time.as_millis()));
    let observe = time.as_deref().map(|time| ("observe", time));
    let gateway = args.gateway.as_deref().map(|name| ("gateway", name));
    let pairs: Vec<(&str, &str)> = [observe, gateway].into_iter().flatten().collect();
    let target = params::target("/v1/doctor", &pairs);
    let patience = args.observe.unwrap_or_default().saturating_add(ANSWER);
    client::block_on(async { Ok(Agent::here().patient(patience).json(&target).await?) })
        .context("the doctor asks the agent of this node; without one, give it manifests with --from")
}

fn examine(args: &Args, from: &Origin) -> anyhow::Result<Report> {
    let index = manifests::read(from)?;
    let world = args.observe.map(|_| world()).transpose()?;
    let node = NodeFacts {
        name: args.node.clone(),
        local_addresses: world.as_ref().map(|world| world.addresses.clone()),
    };
    let settings = pipeline::Settings {
        gateway: gateway::Settings {
            from_files: true,
            ..gateway::Settings::default()
        },
        ..pipeline::Settings::default()
    };
    let snapshot = index.snapshot();
    let built = pipeline::build(&snapshot, &node, &settings);
    let setups = setup::setups(&snapshot, &node, &settings.gateway);
    let own = setup::own_addresses(&snapshot, &node);
    let mut patients = doctor::patients(doctor::beds(&built), &setups);
    if let Some(name) = &args.gateway {
        let names: Vec<String> = patients.iter().map(Patient::name).collect();
        patients.retain(|patient| patient.name() == *name);
        ensure!(
            !patients.is_empty(),
            "there is no gateway {name} here; there are: {}",
            if names.is_empty() {
                "none".to_owned()
            } else {
                names.join(", ")
            }
        );
    }
    let Some((time, world)) = args.observe.zip(world) else {
        let gateways = patients
            .iter()
            .map(|patient| doctor::examine(patient, None, &own));
        return Ok(Report {
            observed: None,
            gateways: gateways.collect(),
        });
    };
    let before = dropped()?;
    let (mut seen, observed) = look(&patients, &world, &args.interface, time)?;
    let after = dropped()?;
    for (patient, seen) in patients.iter().zip(&mut seen) {
        seen.dropped = meanwhile(&patient.name(), &before, &after);
    }
    let gateways = patients
        .iter()
        .zip(&seen)
        .map(|(patient, seen)| doctor::examine(patient, Some(seen), &own));
    Ok(Report {
        observed: Some(observed),
        gateways: gateways.collect(),
    })
}

/// The network namespace as it is.
fn world() -> anyhow::Result<World> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    runtime.block_on(async {
        let (mut netlink, _stirs) = Netlink::open()?;
        Ok(netlink.world(true).await?)
    })
}

/// What was dropped on this node until now, by gateway; nothing where no agent ever counted.
fn dropped() -> anyhow::Result<BTreeMap<String, u64>> {
    match survey::counted(&survey::places(Path::new(RUN_DIR))) {
        Ok(counted) => {
            let gateways = counted.gateways.into_iter();
            Ok(gateways
                .map(|(name, block)| (name, block.all.packets.dropped))
                .collect())
        }
        Err(SurveyError::NoCounters) => Ok(BTreeMap::new()),
        Err(e) => Err(e).context("whether packets were dropped meanwhile cannot be known"),
    }
}

/// What was dropped of a gateway between two readings. What has no name (in parentheses) may be its.
fn meanwhile(gateway: &str, before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> u64 {
    let its = after
        .iter()
        .filter(|(name, _)| *name == gateway || name.starts_with('('));
    its.map(|(name, count)| count.saturating_sub(before.get(name).copied().unwrap_or(0)))
        .fold(0, u64::saturating_add)
}

fn look(
    patients: &[Patient],
    world: &World,
    interfaces: &[String],
    time: Duration,
) -> anyhow::Result<(Vec<doctor::seen::Seen>, doctor::Observed)> {
    let wanted = choice::wanted(world, interfaces, &BTreeSet::new());
    if !wanted.missing.is_empty() {
        bail!("there is no interface {}", wanted.missing.join(", "));
    }
    ensure!(
        !wanted.devices.is_empty(),
        "no interface here carries traffic from outside: name one with --interface"
    );
    observe::look(patients, &wanted.devices, time, || false).context("traffic cannot be looked at")
}

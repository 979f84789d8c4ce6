//! Holds gwfilter against a real Envoy: what the node drops, Envoy refuses. `docs/oracle.md` says how it works.

mod ask;
mod batch;
mod envoy;
mod figures;
mod generate;
mod istio;
mod matcher;
mod node;
mod regression;
mod set;
mod visible;

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use xtask::envoy::Release;

use crate::batch::{Outcome, everywhere, run};
use crate::figures::Figures;
use crate::set::{Class, Set, Topology};

/// Most sets in one Envoy.
const SETS: usize = 400;
/// Clients of a set; each asks two listeners.
const CLIENTS: usize = 25;
/// Of a thousand visible refusals, how many the node has to drop.
const FLOOR: usize = 999;

/// One run at a time: two Envoys on two cores only get in each other's way.
static ALONE: Mutex<()> = Mutex::new(());

fn number(variable: &str, default: u64) -> Result<u64> {
    match std::env::var(variable) {
        Ok(text) => text
            .parse()
            .with_context(|| format!("{variable}={text} is no number")),
        Err(_) => Ok(default),
    }
}

/// `GWFILTER_ENVOY` for the newest release, and what `cargo xtask setup` installed.
fn binary(release: Release) -> Result<PathBuf> {
    match (release, std::env::var_os("GWFILTER_ENVOY")) {
        (Release::Newest, Some(path)) => Ok(path.into()),
        _ => xtask::envoy::binary(release),
    }
}

/// Asks about `cases` cases from the seeds at `GWFILTER_ORACLE_SEED` on, and fails at the first disagreement.
fn differential(release: Release, cases: u64, topology: Option<Topology>) -> Result<String> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let binary = binary(release)?;
    let namespace = everywhere()?;
    let kept = regression::kept()?;
    let sets: Vec<Set> = kept
        .iter()
        .map(|(_, regression)| regression.set.clone())
        .collect();
    for outcome in run(&namespace, &binary, &sets)? {
        if let (Some(kind), Some((path, _))) = (outcome.disagreement(), kept.get(outcome.set)) {
            bail!("{} is back: {kind:?} {outcome:?}", path.display());
        }
    }
    let begin = Instant::now();
    let mut seed = number("GWFILTER_ORACLE_SEED", 1)?;
    let first = seed;
    let mut figures = Figures::default();
    let mut missed: Vec<(u64, Outcome)> = Vec::new();
    while (figures.cases() as u64) < cases {
        let wanted = usize::try_from(cases)?.saturating_sub(figures.cases()) / (2 * CLIENTS) + 1;
        let wanted = wanted.min(SETS);
        let sets: Vec<Set> = (seed..)
            .take(wanted)
            .map(|seed| generate::set(seed, CLIENTS))
            .map(|set| Set {
                topology: topology.unwrap_or(set.topology),
                ..set
            })
            .collect();
        seed += wanted as u64;
        for outcome in run(&namespace, &binary, &sets)? {
            let set = sets.get(outcome.set).context("an outcome of no set")?;
            if let Some(kind) = outcome.disagreement() {
                let path = regression::keep(&namespace, &binary, set, &outcome, kind)?;
                bail!(
                    "{kind:?} at seed {}: {outcome:?}; made small in {}",
                    set.seed,
                    path.display()
                );
            }
            if outcome.missed() && matches!(set.class(), Class::AddressOnly | Class::Mixed | Class::Header) {
                missed.push((set.seed, outcome));
            }
            figures.add(set, &outcome);
        }
    }
    let mut report = format!(
        "Envoy {}: {} cases of seeds {first}..{seed} in {:.0?}, {} regressions, 0 disagreements\n{figures}",
        release.version(),
        figures.cases(),
        begin.elapsed(),
        kept.len()
    );
    for (seed, outcome) in missed.iter().take(10) {
        report += &format!(
            "  left to the gateway though visible: seed {seed} {} {:?}\n",
            outcome.client, outcome.chain
        );
    }
    let held: &[Class] = match topology {
        Some(_) => &[Class::Header],
        None => &[Class::AddressOnly, Class::Mixed, Class::Header],
    };
    for &class in held {
        let count = figures.of(class);
        if count.visible == 0 {
            bail!("no visible refusal of {class:?} sets: the run says nothing\n{report}");
        }
        let share = count.visible_share();
        if share < FLOOR {
            bail!(
                "the node drops only {share} of 1000 visible refusals of {class:?} sets; {FLOOR} are the floor\n{report}"
            );
        }
    }
    Ok(report)
}

#[test]
fn random_policies_then_newest_envoy_refuses_what_the_node_drops() {
    let cases = number("GWFILTER_ORACLE_CASES", 20_000).unwrap();
    println!("{}", differential(Release::Newest, cases, None).unwrap());
}

#[test]
fn random_policies_then_oldest_envoy_refuses_what_the_node_drops() {
    let cases = number("GWFILTER_ORACLE_CASES", 20_000).unwrap();
    println!(
        "{}",
        differential(Release::Oldest, (cases / 4).min(20_000), None).unwrap()
    );
}

#[test]
fn random_policies_behind_a_load_balancer_then_newest_envoy_refuses_what_the_node_drops() {
    let cases = number("GWFILTER_ORACLE_CASES", 20_000).unwrap();
    let report = differential(Release::Newest, cases / 2, Some(Topology::Proxy));
    println!("{}", report.unwrap());
}

//! Disagreements made small, kept as files, and asked again on every run.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use xtask::netns::Namespace;

use crate::batch::{Disagreement, Outcome, run};
use crate::set::{Chain, Set};

/// A set on which node and Envoy once disagreed.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Regression {
    /// What was wrong, for people.
    pub(crate) why: String,
    /// The set, with one client.
    pub(crate) set: Set,
    /// Which listener disagreed.
    pub(crate) chain: Chain,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle/regressions")
}

/// All that are kept, with their file names.
pub(crate) fn kept() -> Result<Vec<(PathBuf, Regression)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder()).context("reading the regressions' folder")? {
        let path = entry.context("reading the regressions' folder")?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let text = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
            let regression =
                serde_json::from_slice(&text).with_context(|| format!("reading {}", path.display()))?;
            found.push((path, regression));
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}

/// Shrinks the set of `outcome`, writes it down and says where.
pub(crate) fn keep(
    namespace: &Namespace,
    binary: &Path,
    set: &Set,
    outcome: &Outcome,
    kind: Disagreement,
) -> Result<PathBuf> {
    let small = shrink(
        namespace,
        binary,
        Set {
            clients: vec![outcome.client],
            ..set.clone()
        },
        outcome.chain,
        kind,
    )?;
    let regression = Regression {
        why: format!(
            "{kind:?}: client {} at the {:?} listener, seed {}",
            outcome.client, outcome.chain, set.seed
        ),
        set: small,
        chain: outcome.chain,
    };
    let chain = format!("{:?}", outcome.chain).to_lowercase();
    let path = folder().join(format!(
        "seed-{}-{chain}-{}.json",
        set.seed,
        outcome.client.to_string().replace([':', '.'], "-")
    ));
    std::fs::write(&path, serde_json::to_vec_pretty(&regression)?)
        .with_context(|| format!("writing {}", path.display()))?;
    Ok(path)
}

/// Takes away policies, rules, entries, fields and values while the disagreement stays.
fn shrink(
    namespace: &Namespace,
    binary: &Path,
    mut set: Set,
    chain: Chain,
    kind: Disagreement,
) -> Result<Set> {
    loop {
        let smaller: Vec<Set> = removals(&Value::Array(set.policies.clone()))
            .into_iter()
            .filter_map(|policies| match policies {
                Value::Array(policies) => Some(Set {
                    policies,
                    ..set.clone()
                }),
                _ => None,
            })
            .collect();
        let outcomes = run(namespace, binary, &smaller)?;
        let still = outcomes
            .iter()
            .find(|outcome| outcome.chain == chain && outcome.disagreement() == Some(kind))
            .and_then(|outcome| smaller.get(outcome.set));
        match still {
            Some(smaller) => set = smaller.clone(),
            None => return Ok(set),
        }
    }
}

/// Every value that comes of `value` by taking one element or field away, outermost first. What identifies an object
/// stays.
fn removals(value: &Value) -> Vec<Value> {
    let mut outer = Vec::new();
    let mut inner = Vec::new();
    match value {
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                let mut fewer = items.clone();
                fewer.remove(index);
                outer.push(Value::Array(fewer));
                for smaller in removals(item) {
                    let mut changed = items.clone();
                    if let Some(place) = changed.get_mut(index) {
                        *place = smaller;
                    }
                    inner.push(Value::Array(changed));
                }
            }
        }
        Value::Object(fields) => {
            for (name, field) in fields {
                if !matches!(
                    name.as_str(),
                    "apiVersion" | "kind" | "metadata" | "name" | "namespace" | "spec" | "key"
                ) {
                    let mut fewer = fields.clone();
                    fewer.remove(name);
                    outer.push(Value::Object(fewer));
                }
                for smaller in removals(field) {
                    let mut changed = fields.clone();
                    changed.insert(name.clone(), smaller);
                    inner.push(Value::Object(changed));
                }
            }
        }
        _ => {}
    }
    outer.extend(inner);
    outer
}

//! Holds gwfilter against verdicts that a real Envoy gave on what Istio's own control plane generated
//! (`fixtures/README.md`).

use std::collections::BTreeMap;
use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use flate2::read::GzDecoder;
use gwfilter::explain::{Explainer, Query};
use gwfilter::index::Index;
use gwfilter::node::NodeFacts;
use gwfilter::{gateway, pipeline};
use serde::Deserialize;
use serde_json::Value;

/// A policy set of the fixture.
#[derive(Deserialize)]
struct Set {
    id: u64,
    mode: String,
    manifests: String,
    ip_only: bool,
    invalid: Vec<String>,
    queries: Vec<Value>,
}

/// What share of the refusals the node is held to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// Addresses and ports only.
    AddressOnly,
    /// Request fields and client certificates too, which are out of the node's sight.
    Mixed,
    /// What Istio's webhook refuses: such policies compile to less enforcement, and nothing but soundness is asked.
    Invalid,
    /// The PROXY protocol brings the client's address; addresses and ports only.
    ProxyAddressOnly,
    /// The same with what the node does not see.
    ProxyMixed,
    /// The same with what Istio's webhook refuses.
    ProxyInvalid,
}

impl Kind {
    /// Of a hundred thousand refusals, how many the node has to drop.
    fn floor(self) -> usize {
        match self {
            Self::AddressOnly => 99_900,
            Self::Mixed => 97_500,
            Self::ProxyAddressOnly => 99_900,
            Self::ProxyMixed => 99_000,
            Self::Invalid | Self::ProxyInvalid => 0,
        }
    }
}

impl Set {
    fn kind(&self) -> Result<Kind> {
        match (self.mode.as_str(), self.invalid.is_empty(), self.ip_only) {
            ("proxy", false, _) => Ok(Kind::ProxyInvalid),
            ("proxy", true, true) => Ok(Kind::ProxyAddressOnly),
            ("proxy", true, false) => Ok(Kind::ProxyMixed),
            ("local", false, _) => Ok(Kind::Invalid),
            ("local", true, true) => Ok(Kind::AddressOnly),
            ("local", true, false) => Ok(Kind::Mixed),
            (other, _, _) => bail!("set {} has the mode {other}", self.id),
        }
    }
}

fn sets() -> Result<Vec<Set>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/verdicts.jsonl.gz");
    let file = std::fs::File::open(&path).with_context(|| format!("opening {}", path.display()))?;
    let lines = BufReader::new(GzDecoder::new(file)).lines();
    lines
        .map(|line| Ok(serde_json::from_str(&line?)?))
        .collect::<Result<_>>()
        .with_context(|| format!("reading {}", path.display()))
}

/// What the library answers to the queries of a set, in order: whether the packet is dropped.
fn drops(set: &Set) -> Result<Vec<bool>> {
    let mut index = Index::new();
    index.load("set", set.manifests.as_bytes())?;
    let settings = pipeline::Settings {
        gateway: gateway::Settings {
            never_drop: Vec::new(),
            from_files: true,
        },
        ..pipeline::Settings::default()
    };
    let explainer = Explainer::new(pipeline::build(
        &index.snapshot(),
        &NodeFacts::default(),
        &settings,
    ))?;
    set.queries
        .iter()
        .map(|query| {
            Ok(explainer
                .answer(&Query::from_json(query.to_string().as_bytes())?)?
                .verdict
                == "drop")
        })
        .collect()
}

/// Envoy's answer to a query.
fn any_allowed(query: &Value) -> Result<bool> {
    query
        .get("any_allowed")
        .and_then(Value::as_bool)
        .context("a query without any_allowed")
}

/// Answers to one kind of set.
#[derive(Default)]
struct Count {
    allowed: usize,
    dropped: usize,
    /// Refused by Envoy, passed by the node.
    left: Vec<String>,
}

impl Count {
    fn refused(&self) -> usize {
        self.dropped + self.left.len()
    }

    /// Dropped of a hundred thousand refused.
    fn share(&self) -> usize {
        (self.dropped * 100_000)
            .checked_div(self.refused())
            .unwrap_or(100_000)
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (refused, share) = (self.refused(), self.share());
        let Self { allowed, dropped, .. } = self;
        write!(
            f,
            "{allowed} let through, {refused} refused, {dropped} of them dropped: {}.{:03} %",
            share / 1000,
            share % 1000
        )
    }
}

#[test]
fn envoy_lets_something_through_then_the_node_passes_and_most_refusals_are_dropped() {
    let mut counts: BTreeMap<Kind, Count> = BTreeMap::new();
    let mut wrong = Vec::new();
    let sets = sets().unwrap();
    assert_eq!(sets.len(), 1500, "the fixture is not whole");
    for set in &sets {
        let count = counts.entry(set.kind().unwrap()).or_default();
        let drops = drops(set).unwrap_or_else(|error| panic!("set {}: {error:#}", set.id));
        assert_eq!(drops.len(), set.queries.len());
        for (query, dropped) in set.queries.iter().zip(drops) {
            match (any_allowed(query).unwrap(), dropped) {
                (true, true) => wrong.push(format!("set {}: {query}", set.id)),
                (true, false) => count.allowed += 1,
                (false, true) => count.dropped += 1,
                (false, false) => count.left.push(format!("set {}: {query}", set.id)),
            }
        }
    }
    for (kind, count) in &counts {
        println!("{kind:?}: {count}");
    }
    assert!(
        wrong.is_empty(),
        "{} dropped that Envoy lets through:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert_eq!(counts.len(), 6);
    for (kind, count) in &counts {
        let shown: Vec<&str> = count.left.iter().take(20).map(String::as_str).collect();
        assert!(
            count.share() >= kind.floor(),
            "{kind:?}: {count}; left, for example:\n{}",
            shown.join("\n")
        );
    }
}

#[test]
fn a_sample_through_the_binary_then_the_same_answers() {
    let sets = sets().unwrap();
    let sample: Vec<&Set> = sets.iter().step_by(97).collect();
    assert!(sample.iter().any(|set| set.mode == "local") && sample.iter().any(|set| set.mode == "proxy"));
    for set in sample {
        let printed = explain(set).unwrap_or_else(|error| panic!("set {}: {error:#}", set.id));
        assert_eq!(printed, drops(set).unwrap(), "set {}", set.id);
    }
}

/// What `gwfilter explain --queries` answers.
fn explain(set: &Set) -> Result<Vec<bool>> {
    let folder = tempfile::tempdir()?;
    let write = |name: &str, text: &str| -> Result<PathBuf> {
        let path = folder.path().join(name);
        std::fs::File::create(&path)?.write_all(text.as_bytes())?;
        Ok(path)
    };
    let queries: String = set.queries.iter().map(|query| format!("{query}\n")).collect();
    let output = Command::new(env!("CARGO_BIN_EXE_gwfilter"))
        .args(["explain", "--from"])
        .arg(write("manifests.yaml", &set.manifests)?)
        .arg("--queries")
        .arg(write("queries.jsonl", &queries)?)
        .stdin(Stdio::null())
        .output()?;
    ensure!(
        output.status.success(),
        "gwfilter explain ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    let answers: Vec<bool> = String::from_utf8(output.stdout)?
        .lines()
        .map(|line| {
            let answer: Value = serde_json::from_str(line)?;
            match answer.get("verdict").and_then(Value::as_str) {
                Some("drop") => Ok(true),
                Some("pass") => Ok(false),
                _ => bail!("no verdict: {line}"),
            }
        })
        .collect::<Result<_>>()?;
    Ok(answers)
}

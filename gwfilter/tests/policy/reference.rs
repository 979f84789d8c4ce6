//! Every row of `docs/reference/policy.md` is checked, with both evaluators.

use std::collections::BTreeMap;
use std::net::IpAddr;

use gwfilter::desired::Verdict;
use gwfilter::gateway::model::{ChainKind, ChainTls, Tri};
use gwfilter::object::authorization_policy::AuthorizationPolicy;
use gwfilter::policy::{decode, evaluate};
use serde_json::Value;

use crate::world::{World, gateway, look_up, mesh, policy, receiver};

const PAGE: &str = include_str!("../../../docs/reference/policy.md");

/// One example: a chain, policies, and what becomes of which source.
struct Example {
    chain: String,
    policies: Vec<AuthorizationPolicy>,
    verdicts: Vec<(IpAddr, Verdict)>,
}

/// The table rows of the page that carry examples, with the code spans of their last cell.
fn rows() -> Vec<(usize, Vec<String>)> {
    let mut rows = Vec::new();
    for (at, line) in PAGE.lines().enumerate() {
        let Some(last) = line
            .strip_prefix('|')
            .and_then(|l| l.trim_end().strip_suffix('|'))
            .and_then(|l| l.split('|').nth(3))
        else {
            continue;
        };
        if last.trim().starts_with("---") || last.trim() == "examples" {
            continue;
        }
        rows.push((
            at + 1,
            last.split('`').skip(1).step_by(2).map(str::to_owned).collect(),
        ));
    }
    rows
}

fn parse(text: &str) -> Option<Example> {
    let (chain, rest) = text.split_once(": ")?;
    let (policies, verdicts) = rest.split_once(" → ")?;
    let policies: Value = serde_yaml::from_str(policies).ok()?;
    let policies = match policies {
        Value::Array(all) => all,
        one => vec![one],
    };
    let verdicts = verdicts
        .split(", ")
        .map(|v| {
            let (source, verdict) = v.split_once(' ')?;
            let verdict = match verdict {
                "pass" => Verdict::Pass,
                "drop" => Verdict::Drop,
                _ => return None,
            };
            Some((source.parse().ok()?, verdict))
        })
        .collect::<Option<Vec<_>>>()?;
    Some(Example {
        chain: chain.to_owned(),
        policies: policies.iter().enumerate().map(|(at, p)| object(at, p)).collect(),
        verdicts,
    })
}

/// A whole policy, or a spec alone.
fn object(at: usize, value: &Value) -> AuthorizationPolicy {
    let name = format!("p{at}");
    let (Some(metadata), Some(spec)) = (value.get("metadata"), value.get("spec")) else {
        return policy("istio-system", &name, value.clone());
    };
    let texts = |name: &str| -> BTreeMap<String, String> {
        metadata
            .get(name)
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned())))
            .collect()
    };
    let namespace = metadata
        .get("namespace")
        .and_then(Value::as_str)
        .unwrap_or("istio-system");
    let mut object = policy(namespace, &name, spec.clone());
    object.meta.annotations = texts("annotations");
    object.meta.labels = texts("labels");
    object
}

fn world(example: &Example) -> Option<World> {
    let (kind, tls) = match example.chain.as_str() {
        "http" | "no-jwt" => (ChainKind::Http, ChainTls::Plain),
        "https" => (ChainKind::Http, ChainTls::Simple),
        "mtls" => (ChainKind::Http, ChainTls::Unknown),
        "tcp" => (ChainKind::Tcp, ChainTls::Plain),
        "passthrough" => (ChainKind::Tcp, ChainTls::Unknown),
        "unknown" => (ChainKind::Unknown, ChainTls::Unknown),
        "auto-passthrough" => (ChainKind::NoRbac, ChainTls::Unknown),
        _ => return None,
    };
    let mut mesh = mesh();
    if example.chain == "no-jwt" {
        mesh.request_authentication = Tri::False;
    }
    Some(World {
        mesh,
        policies: example.policies.clone(),
        gateway: gateway(vec![vec![receiver(kind, tls)]]),
        complete: true,
    })
}

#[test]
fn every_row_of_the_page_does_what_it_says() {
    let rows = rows();
    let (mut verdicts, mut chains) = (0, Vec::new());
    for (line, examples) in &rows {
        assert!(!examples.is_empty(), "line {line} has no example");
        for text in examples {
            let example = parse(text).unwrap_or_else(|| panic!("line {line}: cannot read {text}"));
            let world = world(&example).unwrap_or_else(|| panic!("line {line}: no such chain in {text}"));
            let (policies, _) = decode(&world.policies);
            let compiled = world.compile();
            for (source, verdict) in &example.verdicts {
                let outcome = look_up(&compiled.listeners[0], *source);
                assert_eq!(outcome.verdict, *verdict, "line {line}: {source} in {text}");
                let slow = evaluate(
                    &world.mesh,
                    &policies,
                    &world.gateway,
                    &world.gateway.listeners[0],
                    true,
                    *source,
                );
                assert_eq!(outcome, slow, "line {line}: {source} in {text}");
                verdicts += 1;
            }
            chains.push(example.chain);
        }
    }
    chains.sort();
    chains.dedup();
    println!("{} rows, {verdicts} verdicts", rows.len());
    assert_eq!(
        chains.len(),
        8,
        "every chain of the legend has an example: {chains:?}"
    );
    assert!(
        rows.len() > 50 && verdicts > 150,
        "the page shrank: {} rows, {verdicts} verdicts",
        rows.len()
    );
}

#[test]
fn every_fault_of_the_page_is_a_diagnostic() {
    let faults = PAGE
        .lines()
        .position(|l| l == "## Faults")
        .expect("the page has a section on faults");
    for (line, examples) in rows().into_iter().filter(|(line, _)| *line > faults) {
        for text in examples {
            let example = parse(&text).unwrap_or_else(|| panic!("line {line}: cannot read {text}"));
            assert!(!decode(&example.policies).1.is_empty(), "line {line}: {text}");
        }
    }
}

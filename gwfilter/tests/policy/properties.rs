//! Properties of the policy compiler on random policy sets.
//!
//! `GWFILTER_POLICY_CASES=N` sets how many (policy set, listener, source) triples are compared; a failing seed is printed with a shrunk policy set
//! and belongs into `REGRESSIONS`.

use std::net::IpAddr;

use crate::policies::Generator;
use crate::world::{World, look_up, policy, said, written};
use gwfilter::desired::{Table4, Table6, Verdict};
use gwfilter::policy::{decode, evaluate, evaluate_with};
use proptest::prelude::*;
use serde_json::{Value, json};

/// Seeds that failed once.
const REGRESSIONS: &[u64] = &[];

fn cases() -> u64 {
    std::env::var("GWFILTER_POLICY_CASES")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(200_000)
}

/// What differs between the two evaluators, and how many sources were compared.
fn difference(world: &World, sources: &[IpAddr]) -> (u64, Option<String>) {
    let compiled = world.compile();
    let (policies, _) = decode(&world.policies);
    let mut compared = 0;
    for (listener, tables) in world.gateway.listeners.iter().zip(&compiled.listeners) {
        for &source in sources {
            let table = look_up(tables, source);
            let slow = evaluate(
                &world.mesh,
                &policies,
                &world.gateway,
                listener,
                world.complete,
                source,
            );
            compared += 1;
            // What is only observed is what default-deny would refuse, and no DENY rule.
            let would = evaluate_with(&world.mesh, &policies, &world.gateway, listener, true, source);
            let observed = said(tables, source);
            let observed = (tables.observe && observed != would).then_some((observed, would));
            if let Some((observed, would)) = observed {
                return (
                    compared,
                    Some(format!(
                        "{} from {source}: observed {observed:?}, evaluator {would:?}",
                        listener.name
                    )),
                );
            }
            if table != slow {
                return (
                    compared,
                    Some(format!(
                        "{} from {source}: table {table:?}, evaluator {slow:?}",
                        listener.name
                    )),
                );
            }
        }
    }
    (compared, None)
}

/// Every world that is this one without one list element or one member of a policy's spec.
#[expect(
    clippy::indexing_slicing,
    reason = "the indices come from the lists themselves"
)]
fn smaller(world: &World) -> Vec<World> {
    let mut worlds = Vec::new();
    for at in 0..world.policies.len() {
        let mut without = world.clone();
        without.policies.remove(at);
        worlds.push(without);
        for spec in parts_removed(&written(&world.policies[at])) {
            let mut with = world.clone();
            with.policies[at].spec = spec.into();
            worlds.push(with);
        }
    }
    worlds
}

#[expect(
    clippy::indexing_slicing,
    reason = "the indices come from the lists themselves"
)]
fn parts_removed(value: &Value) -> Vec<Value> {
    match value {
        Value::Array(items) => (0..items.len())
            .flat_map(|at| {
                let mut without = items.clone();
                without.remove(at);
                let inner = parts_removed(&items[at]).into_iter().map(move |v| {
                    let mut with = items.clone();
                    with[at] = v;
                    Value::Array(with)
                });
                std::iter::once(Value::Array(without)).chain(inner)
            })
            .collect(),
        Value::Object(map) => map
            .keys()
            .flat_map(|key| {
                let mut without = map.clone();
                without.remove(key);
                let inner = parts_removed(&map[key]).into_iter().map(move |v| {
                    let mut with = map.clone();
                    with.insert(key.clone(), v);
                    Value::Object(with)
                });
                std::iter::once(Value::Object(without)).chain(inner)
            })
            .collect(),
        _ => Vec::new(),
    }
}

#[test]
fn compiled_tables_equal_the_evaluator() {
    let (mut compared, mut drops) = (0, 0_u64);
    let seeds = REGRESSIONS.iter().copied().chain(0..);
    for seed in seeds {
        if compared >= cases() {
            break;
        }
        let world = World::random(seed);
        let sources = world.sources(seed);
        let (count, found) = difference(&world, &sources);
        compared += count;
        if let Some(found) = found {
            let mut least = world;
            while let Some(next) = smaller(&least)
                .into_iter()
                .find(|w| difference(w, &sources).1.is_some())
            {
                least = next;
            }
            panic!(
                "seed {seed}: {found}\nshrunk: {:?}\n{least:#?}",
                difference(&least, &sources).1
            );
        }
        let tables = world.compile().listeners;
        drops += tables
            .iter()
            .flat_map(|t| sources.iter().map(|s| look_up(t, *s)))
            .filter(|o| o.verdict == Verdict::Drop)
            .count() as u64;
    }
    println!("{compared} comparisons, {drops} drops");
    // The generator must not drift into worlds where nothing is dropped, or everything.
    assert!(
        drops * 10 > compared && drops * 10 < compared * 9,
        "{drops} drops of {compared}"
    );
}

#[test]
fn tables_are_disjoint_minimal_and_hold_drops_only() {
    fn check4(table: &Table4) {
        for ((a, x), (b, y)) in table.iter().zip(table.iter().skip(1)) {
            assert!(a.broadcast() < b.network(), "{a} and {b} overlap");
            let sibling =
                a.prefix_len() > 0 && a.prefix_len() == b.prefix_len() && a.supernet() == b.supernet();
            assert!(!(sibling && x == y), "{a} and {b} are one prefix");
        }
        assert!(
            table
                .values()
                .all(|o| o.verdict == Verdict::Drop && o.rule.is_some())
        );
    }
    fn check6(table: &Table6) {
        for ((a, x), (b, y)) in table.iter().zip(table.iter().skip(1)) {
            assert!(a.broadcast() < b.network(), "{a} and {b} overlap");
            let sibling =
                a.prefix_len() > 0 && a.prefix_len() == b.prefix_len() && a.supernet() == b.supernet();
            assert!(!(sibling && x == y), "{a} and {b} are one prefix");
        }
        assert!(
            table
                .values()
                .all(|o| o.verdict == Verdict::Drop && o.rule.is_some())
        );
    }
    for seed in 0..2000 {
        for listener in World::random(seed).compile().listeners {
            listener.table4.as_deref().into_iter().for_each(check4);
            listener.table6.as_deref().into_iter().for_each(check6);
        }
    }
}

/// Every spec that is this one with something in it that Istio does not know: a foreign member, a bad value, a value of the wrong type.
#[expect(
    clippy::indexing_slicing,
    reason = "the indices come from the lists themselves"
)]
fn spoilt(value: &Value, inside_labels: bool) -> Vec<Value> {
    let mut all = Vec::new();
    match value {
        Value::Object(map) => {
            if !inside_labels {
                let mut with = map.clone();
                with.insert("notKnownYet".to_owned(), json!(["1.2.3.4"]));
                all.push(Value::Object(with));
            }
            for (key, inner) in map {
                for v in spoilt(inner, key == "matchLabels") {
                    let mut with = map.clone();
                    with.insert(key.clone(), v);
                    all.push(Value::Object(with));
                }
                let mut with = map.clone();
                with.insert(key.clone(), json!(7));
                all.push(Value::Object(with));
            }
        }
        Value::Array(items) => {
            for bad in [
                json!("10.0.0.*"),
                json!(null),
                json!(7),
                json!({"notKnownYet": {}}),
            ] {
                let mut with = items.clone();
                with.push(bad);
                all.push(Value::Array(with));
            }
            for (at, inner) in items.iter().enumerate() {
                for v in spoilt(inner, false) {
                    let mut with = items.clone();
                    with[at] = v;
                    all.push(Value::Array(with));
                }
            }
        }
        _ => {}
    }
    all
}

#[test]
fn spoiling_a_policy_never_turns_a_pass_into_a_drop() {
    let mut compared = 0_u64;
    for seed in 0.. {
        if compared > cases() {
            break;
        }
        let world = World::random(seed);
        let sources = world.sources(seed);
        let before = world.compile().listeners;
        for at in 0..world.policies.len() {
            // A text that is no range is a fine value of most other fields: only fields of ranges and ports are spoilt by it.
            for spec in spoilt(&written(&world.policies[at]), false) {
                if spoilt_only_a_text_field(&written(&world.policies[at]), &spec) {
                    continue;
                }
                let mut worse = world.clone();
                worse.policies[at].spec = spec.into();
                let after = worse.compile().listeners;
                for (b, a) in before.iter().zip(&after) {
                    for &source in &sources {
                        compared += 1;
                        let (b, a) = (look_up(b, source), look_up(a, source));
                        assert!(
                            b.verdict == Verdict::Drop || a.verdict == Verdict::Pass,
                            "seed {seed}: {source} passed and is now dropped: {a:?}\nbefore {:#}\nafter {:#}",
                            world.policies[at].spec,
                            worse.policies[at].spec
                        );
                    }
                }
            }
        }
    }
    println!("{compared} comparisons");
}

/// Whether the second spec has one more value in a list of texts that are neither ranges nor ports.
fn spoilt_only_a_text_field(before: &Value, after: &Value) -> bool {
    fn find(before: &Value, after: &Value, path: &mut Vec<String>) -> bool {
        match (before, after) {
            (Value::Object(b), Value::Object(a)) => b.iter().any(|(key, b)| {
                path.push(key.clone());
                let found = a.get(key).is_some_and(|a| b != a && find(b, a, path));
                if !found {
                    path.pop();
                }
                found
            }),
            (Value::Array(b), Value::Array(a)) if a.len() > b.len() => true,
            (Value::Array(b), Value::Array(a)) => b.iter().zip(a).any(|(b, a)| {
                if b == a {
                    return false;
                }
                if let Some(key) = b.get("key").and_then(Value::as_str) {
                    path.push(key.to_owned());
                }
                find(b, a, path)
            }),
            _ => false,
        }
    }
    let mut path = Vec::new();
    if !find(before, after, &mut path) {
        return false;
    }
    let last = path.last().map(String::as_str).unwrap_or_default();
    let key = path.iter().rev().nth(1).map(String::as_str).unwrap_or_default();
    match last {
        "values" | "notValues" => !matches!(
            key,
            "source.ip" | "remote.ip" | "destination.ip" | "destination.port"
        ),
        name => {
            !(name.ends_with("pBlocks")
                || name.ends_with("orts")
                || ["rules", "from", "to", "when", "targetRefs"].contains(&name))
        }
    }
}

/// JSON that looks a little like a spec.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[0-9a-f:./%]{0,12}".prop_map(Value::from),
        ".{0,6}".prop_map(Value::from),
        prop::sample::select(vec!["ALLOW", "DENY", "source.ip", "10.0.0.0/8", "::/0", "8080"])
            .prop_map(Value::from),
    ];
    let key = prop_oneof![
        4 => prop::sample::select(vec![
            "action", "rules", "from", "source", "to", "operation", "when", "key", "values", "notValues", "ipBlocks", "notIpBlocks",
            "remoteIpBlocks", "ports", "paths", "selector", "matchLabels", "targetRefs", "targetRef", "kind", "group", "name",
        ]).prop_map(str::to_owned),
        1 => ".{0,5}",
    ];
    leaf.prop_recursive(7, 64, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(key.clone(), inner, 0..5)
                .prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_spec_compiles_and_both_evaluators_agree(specs in prop::collection::vec(any_json(), 1..4), seed in any::<u64>()) {
        let mut world = World::random(seed);
        world.policies = specs
            .into_iter()
            .enumerate()
            .map(|(at, spec)| policy("istio-system", &format!("p{at}"), spec))
            .collect();
        let sources = world.sources(seed);
        prop_assert_eq!(difference(&world, &sources).1, None);
    }

    #[test]
    fn a_spec_that_decodes_is_reported_whole(seed in any::<u64>()) {
        let mut generator = Generator::new(seed);
        let world = World { policies: vec![policy("istio-system", "p", generator.spec())], ..World::random(seed) };
        let (decoded, _) = decode(&world.policies);
        let compiled = world.compile();
        for (policy, report) in decoded.iter().zip(&compiled.report.policies) {
            prop_assert_eq!(report.rules.len(), policy.rules.len().max(1));
            prop_assert!(report.rules.iter().all(|r| !r.why.is_empty()));
        }
    }
}

//! What is compiled with what an earlier compilation kept is what is compiled from nothing.

use std::sync::Arc;

use gwfilter::object::authorization_policy::AuthorizationPolicy;
use gwfilter::policy::{Memo, compile, compile_after, decode};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::world::{World, policy, written};

/// Lists of ranges in a spec.
fn lists<'v>(value: &'v mut Value, found: &mut Vec<&'v mut Vec<Value>>) {
    let is_range = |v: &Value| v.as_str().is_some_and(|text| text.contains(['.', ':']));
    match value {
        Value::Array(list) => {
            if list.iter().any(is_range) {
                found.push(list);
            } else {
                list.iter_mut().for_each(|v| lists(v, found));
            }
        }
        Value::Object(map) => map.values_mut().for_each(|v| lists(v, found)),
        _ => {}
    }
}

/// Ranges near each other, so that they overlap, nest and touch, over some /20s and /64s.
fn range(rng: &mut StdRng) -> String {
    let (block, host) = (rng.random_range(0..12_u8), rng.random_range(0..12_u8));
    if rng.random_bool(0.6) {
        let len = [20, 27, 28, 30, 31, 32, 32]
            .choose(rng)
            .copied()
            .unwrap_or_default();
        format!("10.{}.{}.{host}/{len}", block / 4, block % 4 * 16)
    } else {
        let len = [62, 64, 124, 127, 128, 128]
            .choose(rng)
            .copied()
            .unwrap_or_default();
        format!("2001:db8:0:{block:x}::{host:x}/{len}")
    }
}

fn ranges(rng: &mut StdRng) -> Vec<String> {
    (0..rng.random_range(1..20)).map(|_| range(rng)).collect()
}

/// A policy that names addresses alone.
fn plain(rng: &mut StdRng, name: &str) -> AuthorizationPolicy {
    let action = ["DENY", "DENY", "ALLOW"].choose(rng).copied().unwrap_or_default();
    let not = if rng.random_bool(0.1) {
        "notIpBlocks"
    } else {
        "ipBlocks"
    };
    let rules: Vec<Value> = (0..rng.random_range(1..3))
        .map(|_| json!({"from": [{"source": {not: ranges(rng)}}]}))
        .collect();
    policy("istio-system", name, json!({"action": action, "rules": rules}))
}

struct History {
    rng: StdRng,
    world: World,
    policies: Vec<Arc<AuthorizationPolicy>>,
    named: usize,
}

impl History {
    fn new(seed: u64) -> Self {
        let mut world = World::random(seed);
        let policies = std::mem::take(&mut world.policies);
        Self {
            rng: StdRng::seed_from_u64(seed),
            policies: policies.into_iter().map(Arc::new).collect(),
            world,
            named: 0,
        }
    }

    fn new_policy(&mut self) -> AuthorizationPolicy {
        self.named += 1;
        let name = format!("n{}", self.rng.random_range(0..1000) * 1000 + self.named);
        if self.rng.random_bool(0.7) {
            return plain(&mut self.rng, &name);
        }
        let other = World::random(self.rng.random()).policies;
        match other.choose(&mut self.rng) {
            Some(policy) => {
                let mut policy = policy.clone();
                policy.meta.name = name;
                policy
            }
            None => plain(&mut self.rng, &name),
        }
    }

    fn step(&mut self) {
        let at = self.rng.random_range(0..self.policies.len().max(1));
        match self.rng.random_range(0..12) {
            0..=2 => {
                let policy = self.new_policy();
                self.policies.push(Arc::new(policy));
            }
            3 if !self.policies.is_empty() => drop(self.policies.remove(at)),
            4 => {
                let other = World::random(self.rng.random());
                match self.rng.random_range(0..3) {
                    0 => self.world.gateway = other.gateway,
                    1 => self.world.mesh = other.mesh,
                    _ => self.world.complete = other.complete,
                }
            }
            _ => {
                let Some(policy) = self.policies.get_mut(at) else {
                    return;
                };
                let mut changed = (**policy).clone();
                let mut found = Vec::new();
                let mut spec = written(&changed);
                lists(&mut spec, &mut found);
                if let Some(list) = found.into_iter().next() {
                    let place = self.rng.random_range(0..list.len());
                    if self.rng.random_bool(0.5) && list.len() > 1 {
                        list.remove(place);
                    } else {
                        list.insert(place, range(&mut self.rng).into());
                    }
                }
                changed.spec = spec.into();
                *policy = Arc::new(changed);
            }
        }
    }
}

#[test]
fn compiled_after_any_changes_then_as_from_nothing() {
    let mut drops = 0;
    for seed in 0..200 {
        let mut history = History::new(seed);
        let mut memo = Memo::with_shards_of(1 + (seed % 3) as usize * 4);
        for step in 0..25 {
            let world = &history.world;
            let (policies, findings) = memo.decode(&history.policies);
            assert_eq!(
                (&policies, &findings),
                (&decode(&history.policies).0, &decode(&history.policies).1)
            );
            let renewed = compile_after(&mut memo, &world.mesh, &policies, &world.gateway, world.complete);
            memo.end();
            let whole = compile(&world.mesh, &policies, &world.gateway, world.complete);
            assert_eq!(renewed, whole, "seed {seed}, step {step}");
            let sizes = |table: &Option<_>| table.as_ref().map(|t: &Arc<gwfilter::desired::Table4>| t.len());
            for (renewed, whole) in renewed.listeners.iter().zip(&whole.listeners) {
                assert_eq!(sizes(&renewed.table4), sizes(&whole.table4));
                drops += sizes(&renewed.table4).unwrap_or(0);
            }
            history.step();
        }
    }
    assert!(drops > 10_000, "{drops}");
}

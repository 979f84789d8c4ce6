//! `kubectl gwfilter top`: rates of the whole cluster, from two readings of `/v1/counters` of each node.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Asked, answers, columns, silent};
use crate::palette::Palette;

/// Rules that are shown.
const RULES: usize = 10;

/// Answers, and when they came, in seconds from any fixed moment.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// When.
    pub at: f64,
    /// What the nodes said.
    pub asked: Vec<Asked>,
}

/// Packets a second.
#[derive(Clone, Copy, Debug, Default)]
struct Rates {
    passed: f64,
    dropped: f64,
    would_drop: f64,
    nodes: usize,
}

/// A table of gateways and one of the rules that drop most, by what both readings have.
#[must_use]
pub fn top(before: &Reading, now: &Reading, palette: Palette) -> String {
    let seconds = now.at - before.at;
    let earlier: BTreeMap<&str, &Value> = answers(&before.asked).collect();
    let rates = |list: &str| {
        let mut all: BTreeMap<String, Rates> = BTreeMap::new();
        for (node, answer) in answers(&now.asked) {
            let Some(earlier) = earlier.get(node).filter(|_| seconds > 0.0) else {
                continue;
            };
            for (name, count) in answer.get(list).and_then(Value::as_object).into_iter().flatten() {
                let old = earlier
                    .get(list)
                    .and_then(|list| list.get(name))
                    .unwrap_or(&Value::Null);
                // An agent that begins anew counts from nothing.
                let rate = |key| number(count, key).saturating_sub(number(old, key));
                let sum = all.entry(name.clone()).or_default();
                sum.passed += per(rate("passed"), seconds);
                sum.dropped += per(rate("dropped"), seconds);
                sum.would_drop += per(rate("would_drop"), seconds);
                sum.nodes += 1;
            }
        }
        let mut all: Vec<(String, Rates)> = all.into_iter().collect();
        all.sort_by(|(_, a), (_, b)| b.dropped.total_cmp(&a.dropped));
        all
    };
    let gateways = rates("gateways");
    let head = |name: &str| {
        let words = [name, "DROPPED/s", "WOULD DROP/s", "PASSED/s", "NODES"];
        words.map(str::to_owned).to_vec()
    };
    let row = |(name, rates): &(String, Rates)| {
        vec![
            name.clone(),
            format!("{:.1}", rates.dropped),
            format!("{:.1}", rates.would_drop),
            format!("{:.1}", rates.passed),
            rates.nodes.to_string(),
        ]
    };
    let mut rows = vec![head("GATEWAY")];
    rows.extend(gateways.iter().map(row));
    let mut text = columns(&rows);
    if gateways.is_empty() {
        text.push_str("no gateway is counted on the nodes that answered twice\n");
    }
    let rules = rates("rules");
    if !rules.is_empty() {
        let mut rows = vec![head("RULE")];
        rows.extend(rules.iter().take(RULES).map(row));
        text.push('\n');
        text.push_str(&columns(&rows));
        if rules.len() > RULES {
            text.push_str(&format!("and {} rules more\n", rules.len() - RULES));
        }
    }
    text + &silent(&now.asked, palette)
}

fn number(count: &Value, key: &str) -> u64 {
    count.get(key).and_then(Value::as_u64).unwrap_or_default()
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a rate is shown with one digit behind the point"
)]
fn per(packets: u64, seconds: f64) -> f64 {
    packets as f64 / seconds
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use serde_json::json;

    use super::*;
    use crate::plugin::tests::{mute, said};

    #[test]
    fn two_readings_then_rates_of_all_nodes_together() {
        let count = |dropped: u64| {
            let one = json!({"passed": 10 * dropped, "dropped": dropped, "would_drop": 0});
            json!({"gateways": {"ns/gw": one}, "rules": {"ns[ns]-policy[deny]-rule[0]": one}})
        };
        let before = Reading {
            at: 10.0,
            asked: vec![
                said("node-1", count(100)),
                said("node-2", count(500)),
                mute("node-3"),
            ],
        };
        let now = Reading {
            at: 12.0,
            // The second agent began anew.
            asked: vec![
                said("node-1", count(150)),
                said("node-2", count(3)),
                said("node-3", count(9)),
            ],
        };
        assert_snapshot!(top(&before, &now, Palette::PLAIN), @r"
        GATEWAY  DROPPED/s  WOULD DROP/s  PASSED/s  NODES
        ns/gw    25.0       0.0           250.0     2

        RULE                         DROPPED/s  WOULD DROP/s  PASSED/s  NODES
        ns[ns]-policy[deny]-rule[0]  25.0       0.0           250.0     2
        ");
        assert_snapshot!(top(&now, &now, Palette::PLAIN), @r"
        GATEWAY  DROPPED/s  WOULD DROP/s  PASSED/s  NODES
        no gateway is counted on the nodes that answered twice
        ");
    }
}

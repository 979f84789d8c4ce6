//! `kubectl gwfilter status`.

use serde_json::Value;

use super::{Asked, answers, columns, fold, items, named, silent, word, words};
use crate::palette::Palette;

/// A row for each node, and each gateway's state where it is not the same everywhere.
#[must_use]
pub fn status(asked: &[Asked], palette: Palette) -> String {
    let mut rows = vec![
        ["NODE", "AGENT", "ENFORCES", "GENERATION", "ATTACHED"]
            .map(str::to_owned)
            .to_vec(),
    ];
    rows.extend(asked.iter().map(row));
    let mut text = columns(&rows);
    let mut names: Vec<&str> = answers(asked)
        .flat_map(|(_, answer)| gateways(answer))
        .filter_map(|gateway| word(gateway, "/name"))
        .collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        text.push_str(&format!("\ngateway {}\n", palette.strong(name)));
        let each = answers(asked).flat_map(|(node, answer)| {
            let idle = Idle::of(answer);
            let here = gateways(answer)
                .iter()
                .filter(move |gateway| word(gateway, "/name") == Some(name));
            here.map(move |gateway| {
                (
                    node,
                    (state(gateway, idle), words(gateway, "/why").collect::<Vec<_>>()),
                )
            })
        });
        for ((state, why), nodes) in fold(each) {
            let state = crate::status::painted(state, why.first().copied(), palette);
            text.push_str(&format!("  {state}: {}\n", named(&nodes)));
            for reason in why {
                text.push_str(&format!("    {reason}\n"));
            }
        }
    }
    let silent = silent(asked, palette);
    if !silent.is_empty() {
        text.push('\n');
        text.push_str(&silent);
    }
    text
}

/// The gateways of an answer; an agent of an earlier version has them among what it wrote down.
fn gateways(answer: &Value) -> &[Value] {
    match items(answer, "/gateways") {
        [] => items(answer, "/last/gateways"),
        gateways => gateways,
    }
}

/// Why a node drops nothing at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Idle {
    Detached,
    Lease,
    Paused,
    Observes,
}

impl Idle {
    /// By a node's status; none where nothing of the kind is said.
    pub(super) fn of(status: &Value) -> Option<Self> {
        let is = |pointer| status.pointer(pointer).and_then(Value::as_bool) == Some(true);
        let list = status.get("attached").and_then(Value::as_array);
        if list.is_some_and(|list| !list.iter().any(in_place)) {
            Some(Self::Detached)
        } else if word(status, "/control/lease") == Some("expired") {
            Some(Self::Lease)
        } else if is("/control/paused") {
            Some(Self::Paused)
        } else {
            is("/last/observe").then_some(Self::Observes)
        }
    }
}

/// Whether this is not known to be taken away.
fn in_place(attached: &Value) -> bool {
    attached.get("in_place").and_then(Value::as_bool) != Some(false)
}

/// What the kernel does of a gateway. An agent of an earlier version says what it wrote down, which only holds where nothing is in the way.
fn state(gateway: &Value, idle: Option<Idle>) -> &str {
    let enforced = gateway.get("enforced").and_then(Value::as_bool) == Some(true);
    let otherwise = if enforced { "enforced" } else { "not enforced" };
    let said = word(gateway, "/state").unwrap_or(otherwise);
    match idle {
        Some(idle) if said.starts_with("enforced") || said.starts_with("still enforced") => match idle {
            Idle::Detached => "was enforced, nothing is attached now",
            Idle::Lease => "was enforced, until the lease ran out",
            Idle::Paused => "counted only, enforced when the pause ends",
            Idle::Observes => "counted only",
        },
        _ => said,
    }
}

fn row(one: &Asked) -> Vec<String> {
    let Ok(answer) = &one.answer else {
        return vec![
            one.node.clone(),
            "no answer".to_owned(),
            "not known".to_owned(),
            String::new(),
        ];
    };
    let all = gateways(answer);
    let enforced = all
        .iter()
        .filter(|gateway| gateway.get("enforced").and_then(Value::as_bool) == Some(true))
        .count();
    let attached = items(answer, "/attached").iter().map(|at| {
        let part = |pointer| word(at, pointer).unwrap_or("?");
        let detached = if in_place(at) { "" } else { ", DETACHED" };
        format!("{} ({}{detached})", part("/interface"), part("/hook"))
    });
    let attached = attached.collect::<Vec<_>>().join(", ");
    let enforces = match Idle::of(answer) {
        Some(Idle::Detached) => "nothing: not attached".to_owned(),
        Some(Idle::Lease) => "nothing: the lease has run out".to_owned(),
        Some(Idle::Paused) => "nothing: PAUSED".to_owned(),
        Some(Idle::Observes) => format!("nothing: observes {}", plural(all.len())),
        None if answer.get("control") == Some(&Value::Null) => "not known".to_owned(),
        None => format!("{enforced} of {}", plural(all.len())),
    };
    let mut agent = word(answer, "/agent").unwrap_or("?").to_owned();
    if let Some(why) = word(answer, "/last/not_ready") {
        agent += &format!(", not ready: {why}");
    }
    let generation = answer.get("generation").and_then(Value::as_u64);
    vec![
        one.node.clone(),
        agent,
        enforces,
        generation.map_or_else(|| "none".to_owned(), |number| number.to_string()),
        if attached.is_empty() {
            "nothing".to_owned()
        } else {
            attached
        },
    ]
}

fn plural(gateways: usize) -> String {
    match gateways {
        1 => "1 gateway".to_owned(),
        more => format!("{more} gateways"),
    }
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use serde_json::json;

    use super::*;
    use crate::palette::words as words_of;
    use crate::plugin::tests::{mute, said};

    #[test]
    fn several_things_in_the_way_then_the_one_that_a_node_names_too() {
        let of = |attached: &Value, lease, paused, observe| {
            Idle::of(
                &json!({"attached": attached, "control": {"lease": lease, "paused": paused},
                "last": {"observe": observe}}),
            )
        };
        let there = json!([{"interface": "eth0"}]);
        for (attached, lease, paused, observe, wanted) in [
            (json!([]), "expired", true, true, Some(Idle::Detached)),
            (
                json!([{"in_place": false}]),
                "runs",
                false,
                false,
                Some(Idle::Detached),
            ),
            (there.clone(), "expired", true, true, Some(Idle::Lease)),
            (there.clone(), "runs", true, false, Some(Idle::Paused)),
            (there.clone(), "runs", false, true, Some(Idle::Observes)),
            (there, "runs", false, false, None),
        ] {
            assert_eq!(
                of(&attached, lease, paused, observe),
                wanted,
                "{attached} {lease} {paused} {observe}"
            );
        }
    }

    fn answer(gateway: &Value) -> Value {
        json!({
            "agent": "running", "generation": 7, "attached": [{"interface": "eth0", "ifindex": 2, "hook": "xdp"}],
            "control": {"lease": "runs", "paused": false}, "last": {"observe": false, "not_ready": null}, "gateways": [gateway],
        })
    }

    #[test]
    fn nodes_in_every_state_then_a_row_each_and_equal_gateways_folded() {
        let good = json!({"name": "istio-system/ingress", "enforced": true, "state": "enforced", "why": []});
        let bad = json!({"name": "istio-system/ingress", "enforced": false, "state": "not enforced",
            "why": ["probe-sources-unknown: nobody says where health probes come from"]});
        let waits = json!({"name": "istio-system/ingress", "enforced": true, "state": "counted only, enforced when the pause ends", "why": []});
        let mut paused = answer(&waits);
        paused["control"]["paused"] = json!(true);
        let mut fresh = answer(&bad);
        fresh["last"]["not_ready"] = json!("no interface is served");
        fresh["attached"] = json!([]);
        let was = json!({"name": "istio-system/ingress", "enforced": true, "state": "was enforced, nothing is attached now", "why": []});
        let mut taken = answer(&was);
        taken["attached"][0]["in_place"] = json!(false);
        let mut expired = answer(&good);
        expired["control"] = json!({"lease": "expired", "paused": true});
        let old = json!({"agent": "running", "generation": 3, "attached": [], "last": {"gateways": [good]}});
        let asked = [
            said("node-1", answer(&good)),
            said("node-2", paused),
            said("node-3", fresh),
            mute("node-4"),
            said("node-5", old),
            said("node-6", taken),
            said("node-7", expired),
        ];
        let coloured = status(&asked, Palette::COLOURED);
        assert_eq!(
            words_of(&coloured),
            status(&asked, Palette::PLAIN),
            "colour adds no word"
        );
        assert_snapshot!(status(&asked, Palette::PLAIN), @r"
        NODE    AGENT                                       ENFORCES                        GENERATION  ATTACHED
        node-1  running                                     1 of 1 gateway                  7           eth0 (xdp)
        node-2  running                                     nothing: PAUSED                 7           eth0 (xdp)
        node-3  running, not ready: no interface is served  nothing: not attached           7           nothing
        node-4  no answer                                   not known
        node-5  running                                     nothing: not attached           3           nothing
        node-6  running                                     nothing: not attached           7           eth0 (xdp, DETACHED)
        node-7  running                                     nothing: the lease has run out  7           eth0 (xdp)

        gateway istio-system/ingress
          enforced: node-1
          counted only, enforced when the pause ends: node-2
          not enforced: node-3
            probe-sources-unknown: nobody says where health probes come from
          was enforced, nothing is attached now: node-5, node-6
          was enforced, until the lease ran out: node-7

        no answer from node-4: the API server cannot reach it: connection refused
          look: kubectl -n gwfilter-system describe pod gwfilter-node-4
        If the agent there is dead, its last policies go on being enforced until the lease ends (by default an hour, a minute at pods' addresses); changes since do not arrive there.
        ");
    }
}

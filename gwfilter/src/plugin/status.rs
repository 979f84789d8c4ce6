//! `kubectl gwfilter status`.

use serde_json::Value;

use super::{Asked, answers, columns, fold, items, named, silent, word, words};
use crate::cli::style::Palette;

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
            let here = gateways(answer)
                .iter()
                .filter(move |gateway| word(gateway, "/name") == Some(name));
            here.map(move |gateway| (node, (state(gateway), words(gateway, "/why").collect::<Vec<_>>())))
        });
        for ((state, why), nodes) in fold(each) {
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

fn state(gateway: &Value) -> &str {
    let enforced = gateway.get("enforced").and_then(Value::as_bool) == Some(true);
    let otherwise = if enforced { "enforced" } else { "not enforced" };
    word(gateway, "/state").unwrap_or(otherwise)
}

fn row(one: &Asked) -> Vec<String> {
    let Ok(answer) = &one.answer else {
        return vec![one.node.clone(), "no answer".to_owned(), String::new()];
    };
    let is = |pointer| answer.pointer(pointer).and_then(Value::as_bool) == Some(true);
    let all = gateways(answer);
    let enforced = all
        .iter()
        .filter(|gateway| gateway.get("enforced").and_then(Value::as_bool) == Some(true))
        .count();
    let attached = items(answer, "/attached").iter().map(|at| {
        let part = |pointer| word(at, pointer).unwrap_or("?");
        format!("{} ({})", part("/interface"), part("/hook"))
    });
    let attached = attached.collect::<Vec<_>>().join(", ");
    let enforces = if is("/control/paused") {
        "nothing: PAUSED".to_owned()
    } else if word(answer, "/control/lease") == Some("expired") {
        "nothing: the lease has run out".to_owned()
    } else if is("/last/observe") {
        format!("nothing: observes {}", plural(all.len()))
    } else {
        format!("{enforced} of {}", plural(all.len()))
    };
    let agent = match word(answer, "/last/not_ready") {
        Some(why) => format!("not ready: {why}"),
        None => word(answer, "/agent").unwrap_or("?").to_owned(),
    };
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
    use crate::plugin::tests::{mute, said};

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
        let mut paused = answer(&good);
        paused["control"]["paused"] = json!(true);
        let mut fresh = answer(&bad);
        fresh["last"]["not_ready"] = json!("no interface is served");
        fresh["attached"] = json!([]);
        let old = json!({"agent": "running", "generation": 3, "attached": [], "last": {"gateways": [good]}});
        let asked = [
            said("node-1", answer(&good)),
            said("node-2", paused),
            said("node-3", fresh),
            mute("node-4"),
            said("node-5", old),
        ];
        assert_snapshot!(status(&asked, Palette::PLAIN), @r"
        NODE    AGENT                              ENFORCES         GENERATION  ATTACHED
        node-1  running                            1 of 1 gateway   7           eth0 (xdp)
        node-2  running                            nothing: PAUSED  7           eth0 (xdp)
        node-3  not ready: no interface is served  0 of 1 gateway   7           nothing
        node-4  no answer
        node-5  running                            1 of 1 gateway   3           nothing

        gateway istio-system/ingress
          enforced: node-1, node-2, node-5
          not enforced: node-3
            probe-sources-unknown: nobody says where health probes come from

        no answer from node-4: the API server cannot reach it: connection refused
          look: kubectl describe pod gwfilter-node-4
        What is in a node's kernel goes on without its agent, until the lease ends.
        ");
    }
}

//! `kubectl gwfilter explain`.

use serde_json::Value;

use super::{Asked, answers, fold, named, silent, word, words};
use crate::cli::style::Palette;

/// Equal answers once, each with the nodes that give it.
#[must_use]
pub fn explain(asked: &[Asked], palette: Palette) -> String {
    let mut text = String::new();
    for (answer, nodes) in fold(answers(asked)) {
        let drop = word(answer, "/verdict") == Some("drop");
        let verdict = if drop {
            palette.bad("DROP").to_string()
        } else {
            palette.good("pass").to_string()
        };
        let reason = word(answer, "/reason").unwrap_or("?");
        text.push_str(&format!("{verdict}: {reason}, on {}\n", named(&nodes)));
        for (name, pointer) in [
            ("gateway", "/gateway"),
            ("policy", "/policy"),
            ("client address", "/client_address"),
            ("judged in", "/hook"),
        ] {
            if let Some(value) = word(answer, pointer) {
                text.push_str(&format!("  {name:14}  {value}\n"));
            }
        }
        for note in words(answer, "/notes") {
            text.push_str(&format!("  - {note}\n"));
        }
    }
    let differ =
        fold(answers(asked).map(|(node, answer)| (node, answer.get("verdict").and_then(Value::as_str))));
    if differ.len() > 1 {
        text.push_str(
            "The nodes differ: each judges what it sees, and knows only the gateways that it serves.\n",
        );
    }
    text + &silent(asked, palette)
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use serde_json::json;

    use super::*;
    use crate::plugin::tests::{mute, said};

    #[test]
    fn equal_answers_then_folded_and_others_apart() {
        let drop = json!({"verdict": "drop", "reason": "denied-by-rule", "gateway": "istio-system/ingress",
            "policy": "ns[istio-system]-policy[deny]-rule[0]", "hook": "xdp", "client_address": "packet-source", "notes": []});
        let pass = json!({"verdict": "pass", "reason": "not-a-gateway", "gateway": null, "policy": null, "hook": null,
            "client_address": null, "notes": ["no gateway of this node has this destination"]});
        let asked = [
            said("node-1", drop.clone()),
            said("node-2", pass),
            said("node-3", drop),
            mute("node-4"),
        ];
        assert_snapshot!(explain(&asked, Palette::PLAIN), @r"
        DROP: denied-by-rule, on node-1, node-3
          gateway         istio-system/ingress
          policy          ns[istio-system]-policy[deny]-rule[0]
          client address  packet-source
          judged in       xdp
        pass: not-a-gateway, on node-2
          - no gateway of this node has this destination
        The nodes differ: each judges what it sees, and knows only the gateways that it serves.
        no answer from node-4: the API server cannot reach it: connection refused
          look: kubectl describe pod gwfilter-node-4
        What is in a node's kernel goes on without its agent, until the lease ends.
        ");
    }
}

//! `kubectl gwfilter explain`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::status::Idle;
use super::{Asked, answers, fold, named, silent, word, words};
use crate::explain::headline;
use crate::palette::Palette;

/// Equal answers once, each with the nodes that give it. An answer says what the tables say; `statuses` are the same nodes' answers to
/// `/v1/status`, by which a node that drops nothing is told apart.
#[must_use]
pub fn explain(asked: &[Asked], statuses: &[Asked], palette: Palette) -> String {
    let idle: BTreeMap<&str, Idle> = answers(statuses)
        .filter_map(|(node, status)| Some((node, Idle::of(status)?)))
        .collect();
    let mut text = String::new();
    let each = answers(asked).map(|(node, answer)| {
        let drop = word(answer, "/verdict") == Some("drop");
        let idle = idle.get(node).copied().filter(|_| drop);
        (node, (answer, drop, idle))
    });
    for ((answer, drop, idle), nodes) in fold(each) {
        let reason = word(answer, "/reason").unwrap_or("?");
        let on = named(&nodes);
        let why = headline(reason);
        text.push_str(&match (drop, idle) {
            (true, Some(idle)) => {
                let passes = passes(idle, nodes.len() > 1);
                let would = palette.good("would be DROPPED, but passes");
                format!("{would}: {on} {passes} ({reason})\n")
            }
            (true, None) => format!("{}: {why} ({reason}), on {on}\n", palette.bad("DROP")),
            (false, _) => format!("{}: {why} ({reason}), on {on}\n", palette.good("pass")),
        });
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
            "The nodes differ. not-a-gateway: that node does not serve this destination. A pass lets nobody in, the gateway still judges.\n",
        );
    }
    text + &silent(asked, palette)
}

/// Why nothing is dropped there, after the names of the nodes.
const fn passes(idle: Idle, several: bool) -> &'static str {
    match (idle, several) {
        (Idle::Detached, false) => "has nothing attached",
        (Idle::Detached, true) => "have nothing attached",
        (Idle::Lease, false) => "has a lease that ran out",
        (Idle::Lease, true) => "have leases that ran out",
        (Idle::Paused, false) => "is paused",
        (Idle::Paused, true) => "are paused",
        (Idle::Observes, false) => "only observes",
        (Idle::Observes, true) => "only observe",
    }
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use serde_json::json;

    use super::*;
    use crate::plugin::tests::{mute, said};

    #[test]
    fn a_packet_that_passes_then_one_answer_whatever_the_nodes_do() {
        let pass = json!({"verdict": "pass", "reason": "allowed", "notes": []});
        let asked = [said("node-1", pass.clone()), said("node-2", pass)];
        let paused =
            json!({"attached": [{"interface": "eth0"}], "control": {"lease": "runs", "paused": true}});
        let text = explain(&asked, &[said("node-2", paused)], Palette::PLAIN);
        assert!(
            text.lines().count() == 1 && text.ends_with("on node-1, node-2\n"),
            "{text}"
        );
    }

    #[test]
    fn equal_answers_then_folded_and_others_apart() {
        let drop = json!({"verdict": "drop", "reason": "denied-by-rule", "gateway": "istio-system/ingress",
            "policy": "ns[istio-system]-policy[deny]-rule[0]", "hook": "xdp", "client_address": "packet-source", "notes": []});
        let pass = json!({"verdict": "pass", "reason": "not-a-gateway", "gateway": null, "policy": null, "hook": null,
            "client_address": null, "notes": ["no gateway of this node has this destination"]});
        let asked = [
            said("node-1", drop.clone()),
            said("node-2", drop.clone()),
            said("node-3", drop),
            said("node-4", pass),
            mute("node-5"),
        ];
        let status = |paused| json!({"attached": [{"interface": "eth0"}], "control": {"lease": "runs", "paused": paused}});
        let statuses = [
            said("node-1", status(false)),
            said("node-2", status(true)),
            mute("node-3"),
            said("node-4", status(true)),
        ];
        assert_snapshot!(explain(&asked, &statuses, Palette::PLAIN), @r"
        DROP: a DENY rule matches this source (denied-by-rule), on node-1, node-3
          gateway         istio-system/ingress
          policy          ns[istio-system]-policy[deny]-rule[0]
          client address  packet-source
          judged in       xdp
        would be DROPPED, but passes: node-2 is paused (denied-by-rule)
          gateway         istio-system/ingress
          policy          ns[istio-system]-policy[deny]-rule[0]
          client address  packet-source
          judged in       xdp
        pass: the destination is no gateway's (not-a-gateway), on node-4
          - no gateway of this node has this destination
        The nodes differ. not-a-gateway: that node does not serve this destination. A pass lets nobody in, the gateway still judges.
        no answer from node-5: the API server cannot reach it: connection refused
          look: kubectl -n gwfilter-system describe pod gwfilter-node-5
        If the agent there is dead, its last policies go on being enforced until the lease ends (by default an hour, a minute at pods' addresses); changes since do not arrive there.
        ");
    }
}

//! `kubectl gwfilter doctor`.

use serde_json::Value;

use super::{Asked, answers, fold, items, named, silent, word, words};
use crate::cli::style::Palette;

/// Each gateway's diagnosis: equal ones once, with the nodes that give them.
#[must_use]
pub fn doctor(asked: &[Asked], palette: Palette) -> String {
    let mut text = String::new();
    let each = answers(asked).flat_map(|(node, answer)| {
        let gateways = items(answer, "/gateways").iter();
        gateways.map(move |gateway| {
            (
                node,
                (
                    word(gateway, "/name").unwrap_or("?"),
                    items(gateway, "/findings"),
                    verdict(gateway),
                ),
            )
        })
    });
    let mut folded = fold(each);
    folded.sort_by_key(|((name, ..), _)| *name);
    for ((name, findings, verdict), nodes) in folded {
        text.push_str(&format!(
            "{}: {verdict}, on {}\n",
            palette.strong(name),
            named(&nodes)
        ));
        for finding in findings {
            let code = word(finding, "/code").unwrap_or("?");
            text.push_str(&format!("  {code}: {}\n", word(finding, "/what").unwrap_or("?")));
            for evidence in words(finding, "/evidence") {
                text.push_str(&format!("    seen: {evidence}\n"));
            }
            let ways = items(finding, "/mends").iter();
            for mend in ways.flat_map(|way| items(way, "/steps")) {
                text.push_str(&format!("    mend: {}\n", word(mend, "/what").unwrap_or("?")));
                if let Some(command) = word(mend, "/command") {
                    text.push_str(&format!("      {command}\n"));
                }
                for line in word(mend, "/yaml").unwrap_or_default().lines() {
                    text.push_str(&format!("      {line}\n"));
                }
            }
        }
    }
    if text.is_empty() && answers(asked).next().is_some() {
        text.push_str("no gateway is known on the nodes that answered\n");
    }
    text + &silent(asked, palette)
}

fn verdict(gateway: &Value) -> &str {
    word(gateway, "/verdict").unwrap_or("?")
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use serde_json::json;

    use super::*;
    use crate::plugin::tests::{mute, said};

    #[test]
    fn diagnoses_then_equal_ones_folded_with_the_command_that_mends() {
        let sick = json!({"observed": null, "gateways": [{"name": "ns/gw", "verdict": "wrong", "findings": [{
            "code": "header-not-expected", "verdict": "wrong", "what": "streams begin with a PROXY header that the gateway does not read",
            "evidence": ["40 of 40 streams"], "mends": [{"when": null, "steps": [{"what": "let the gateway read it", "command": "kubectl apply -f -", "yaml": "a: 1\nb: 2"}]}],
        }]}]});
        let well =
            json!({"observed": null, "gateways": [{"name": "ns/gw", "verdict": "right", "findings": []}]});
        let asked = [
            said("node-1", sick.clone()),
            said("node-2", sick),
            said("node-3", well),
            mute("node-4"),
        ];
        assert_snapshot!(doctor(&asked, Palette::PLAIN), @r"
        ns/gw: wrong, on node-1, node-2
          header-not-expected: streams begin with a PROXY header that the gateway does not read
            seen: 40 of 40 streams
            mend: let the gateway read it
              kubectl apply -f -
              a: 1
              b: 2
        ns/gw: right, on node-3
        no answer from node-4: the API server cannot reach it: connection refused
          look: kubectl describe pod gwfilter-node-4
        What is in a node's kernel goes on without its agent, until the lease ends.
        ");
    }
}

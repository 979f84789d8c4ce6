//! `kubectl gwfilter doctor`.

use serde::Deserialize as _;
use serde_json::Value;

use super::{Asked, answers, fold, items, named, silent, word, words};
use crate::doctor::{Diagnosis, Finding, text};
use crate::palette::Palette;

/// Each gateway's diagnosis: equal ones once, with the nodes that give them. In the words of `gwfilter doctor`; what an agent of another version
/// says that these do not know, as it says it.
#[must_use]
pub fn doctor(asked: &[Asked], palette: Palette) -> String {
    let mut text = String::new();
    let each = answers(asked).flat_map(|(node, answer)| {
        let gateways = items(answer, "/gateways").iter();
        gateways.map(move |gateway| {
            let name = word(gateway, "/name").unwrap_or("?");
            (
                node,
                (name, headline(gateway, palette), items(gateway, "/findings")),
            )
        })
    });
    let mut folded = fold(each);
    folded.sort_by_key(|((name, ..), _)| *name);
    for ((name, headline, findings), nodes) in folded {
        let name = palette.strong(name);
        text.push_str(&format!("{name} - {headline}, on {}\n", named(&nodes)));
        text.extend(findings.iter().map(|one| finding(one, palette)));
    }
    if text.is_empty() && answers(asked).next().is_some() {
        text.push_str("no gateway is known on the nodes that answered\n");
    }
    text + &silent(asked, palette)
}

fn headline(gateway: &Value, p: Palette) -> String {
    match Diagnosis::deserialize(gateway) {
        Ok(gateway) => text::headline(&gateway, p).to_string(),
        Err(_) => word(gateway, "/verdict").unwrap_or("?").to_owned(),
    }
}

fn finding(finding: &Value, p: Palette) -> String {
    let mut bytes = Vec::new();
    if let Ok(finding) = Finding::deserialize(finding)
        && text::finding(&finding, p, &mut bytes).is_ok()
    {
        return String::from_utf8_lossy(&bytes).into_owned();
    }
    let part = |pointer| word(finding, pointer).unwrap_or("?");
    let mut text = format!("  {}: {} [{}]\n", part("/verdict"), part("/what"), part("/code"));
    for line in words(finding, "/evidence") {
        text.push_str(&format!("      seen: {line}\n"));
    }
    text + "      (this agent is of another version: `kubectl gwfilter doctor -o json` has all that it says)\n"
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use serde_json::json;

    use super::*;
    use crate::palette::words as words_of;
    use crate::plugin::tests::{mute, said};

    fn gateway(verdict: &str, findings: &Value) -> Value {
        json!({"observed": null, "gateways": [{"name": "ns/gw", "verdict": verdict, "traffic": null, "findings": findings,
            "gateway": {"reads_proxy_header": "no", "trusted_proxies": 0, "set_by": []},
            "node": {"client_address": "packet-source", "external_traffic_policy": null, "judged": [], "rewritten": []}}]})
    }

    #[test]
    fn diagnoses_then_equal_ones_folded_in_the_words_of_the_nodes_own_command() {
        let step =
            json!({"what": "let the gateway read it", "command": "kubectl apply -f -", "yaml": "a: 1\nb: 2"});
        let other = json!({"what": "let the load balancer send none", "command": null, "yaml": null});
        let sick = gateway(
            "contradiction",
            &json!([{
                "code": "header-not-expected", "verdict": "contradiction", "certainty": "certain", "evidence": ["40 of 40 streams"],
                "what": "streams begin with a PROXY header that the gateway does not read", "follows": ["every connection fails"],
                "mends": [{"when": null, "steps": [step]}, {"when": null, "steps": [other]}],
            }]),
        );
        let well = gateway("agree", &json!([]));
        let newer = gateway(
            "splendid",
            &json!([{"code": "new", "verdict": "splendid", "what": "something new", "evidence": ["1 of 1"]}]),
        );
        let asked = [
            said("node-1", sick.clone()),
            said("node-2", sick),
            said("node-3", well),
            said("node-4", newer),
        ];
        let coloured = doctor(&asked, Palette::COLOURED);
        assert_eq!(
            words_of(&coloured),
            doctor(&asked, Palette::PLAIN),
            "colour adds no word"
        );
        assert_snapshot!(doctor(&asked, Palette::PLAIN), @r"
        ns/gw - the client address is WRONG, on node-1, node-2
          ! streams begin with a PROXY header that the gateway does not read [header-not-expected]
              seen: 40 of 40 streams
              so: every connection fails
              mend, either: let the gateway read it
                kubectl apply -f -
                a: 1
                b: 2
              or: let the load balancer send none
        ns/gw - the client address is right, on node-3
        ns/gw - splendid, on node-4
          splendid: something new [new]
              seen: 1 of 1
              (this agent is of another version: `kubectl gwfilter doctor -o json` has all that it says)
        ");
        assert!(doctor(&[mute("node-1")], Palette::PLAIN).starts_with("no answer from node-1"));
    }
}

//! Rights that are missing, and policies that only Istio's webhook would have refused.

use serde_json::{Value, json};
use xtask::site::Client;

use crate::lab::{A, B, Lab, SOON, vip};

#[test]
fn one_verb_missing_then_said_by_name_and_no_default_deny_until_it_is_granted() {
    let lab = Lab::new();
    let role = "/apis/rbac.authorization.k8s.io/v1/clusterroles/gwfilter";
    let shipped = lab
        .cluster
        .get(role)
        .and_then(|answer| answer.granted())
        .expect("the role");
    // Policies can be listed and watched, as before; EnvoyFilters can no longer be listed.
    let mut rules = Vec::new();
    for rule in shipped["rules"].as_array().expect("rules") {
        let mut rule = rule.clone();
        if let Some(resources) = rule["resources"].as_array_mut() {
            resources.retain(|resource| resource != "envoyfilters");
        }
        rules.push(rule);
    }
    rules.push(json!({
        "apiGroups": ["networking.istio.io"], "resources": ["envoyfilters"], "verbs": ["watch"],
    }));
    let set = |rules: &Value| {
        let patch = json!({"rules": rules}).to_string();
        lab.cluster
            .request("PATCH", role, "application/merge-patch+json", &patch)
            .and_then(|answer| answer.granted())
            .expect("a role");
    };
    set(&Value::Array(rules));
    lab.policy("ALLOW", &[B]);
    let mut agent = lab.launch();
    let line = agent.process.wait_log("the missing right", SOON, |log| {
        log.lines()
            .find(|line| line.to_lowercase().contains("envoyfilters") && line.contains("403"))
            .map(ToOwned::to_owned)
    });
    line.expect("a line with the resource and the status");
    lab.let_in(&agent, Client::A, vip());
    set(&shipped["rules"]);
    lab.refused(&agent, Client::A, vip());
    lab.let_in(&agent, Client::B, vip());
}

#[test]
fn a_kind_that_may_be_listed_and_not_watched_then_used_and_said_once_until_it_is_granted() {
    let lab = Lab::new();
    let role = "/apis/rbac.authorization.k8s.io/v1/clusterroles/gwfilter";
    let shipped = lab
        .cluster
        .get(role)
        .and_then(|answer| answer.granted())
        .expect("the role");
    let set = |rules: &Value| {
        let patch = json!({"rules": rules}).to_string();
        lab.cluster
            .request("PATCH", role, "application/merge-patch+json", &patch)
            .and_then(|answer| answer.granted())
            .expect("a role");
    };
    let mut rules = shipped["rules"].clone();
    for rule in rules.as_array_mut().expect("rules") {
        if rule["resources"]
            .as_array()
            .is_some_and(|all| all.contains(&json!("authorizationpolicies")))
        {
            rule["verbs"] = json!(["list"]);
        }
    }
    set(&rules);
    lab.policy("DENY", &[A]);
    let mut agent = lab.launch();
    lab.refused(&agent, Client::A, vip());
    let lines = |log: &str, what: &str| {
        let all = log
            .lines()
            .filter(|line| line.contains(what) && line.contains("AuthorizationPolicy"));
        all.count()
    };
    let told = "cannot be read; what is known of it stays";
    agent
        .process
        .wait_log("the missing right", SOON, |log| {
            (lines(log, told) == 1).then_some(())
        })
        .expect("a line");
    // A change is seen with the next list.
    lab.policy("DENY", &[B]);
    lab.refused(&agent, Client::B, vip());
    set(&shipped["rules"]);
    agent
        .process
        .wait_log("that it is over", SOON, |log| {
            assert_eq!(lines(log, told), 1, "said once:\n{log}");
            (lines(log, "can be read again") == 1).then_some(())
        })
        .expect("a line");
    lab.policy("DENY", &[A]);
    lab.refused(&agent, Client::A, vip());
}

#[test]
fn a_policy_that_only_the_webhook_refuses_then_said_and_the_others_are_enforced() {
    let lab = Lab::new();
    let mut agent = lab.start();
    let policy = |name: &str, action: &str, block: &str| {
        xtask::manifests::ingress_policy(action, "ipBlocks", &[block]).replace("ingress-policy", name)
    };
    lab.apply(&policy("broken", "DENY", "5.6.7.0/99"));
    lab.apply(&policy("deny-a", "DENY", A));
    lab.refused(&agent, Client::A, vip());
    lab.let_in(&agent, Client::B, vip());
    agent
        .process
        .wait_log("the broken policy", SOON, |log| {
            log.lines()
                .find(|line| line.contains("istio-system/broken"))
                .map(ToOwned::to_owned)
        })
        .expect("a line about it");
    let said = xtask::poll::until(SOON, || {
        let events = lab.events("AuthorizationPolicy", "broken");
        (!events.is_empty()).then_some(events)
    });
    let said = said.expect("an Event on it");
    assert_eq!(said.len(), 1, "said once: {said:?}");
    // An ALLOW with a faulty block is what Envoy runs; what it lets in cannot be known, so nobody is kept out.
    lab.apply(&policy("holed", "ALLOW", "5.6.7.0/99"));
    lab.apply(&policy("allow-a", "ALLOW", A));
    lab.let_in(&agent, Client::B, vip());
}

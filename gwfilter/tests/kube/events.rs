//! What is said on the objects themselves.

use serde_json::json;
use xtask::poll;
use xtask::site::Client;

use crate::lab::{A, Lab, SOON, vip};

const SERVICE: &str = "istio-ingressgateway";

#[test]
fn a_service_that_can_be_judged_in_part_only_then_said_once_and_its_end_too() {
    let lab = Lab::new();
    let mut agent = lab.start();
    lab.policy("DENY", &[A]);
    lab.refused(&agent, Client::A, vip());
    let flip = |to: &str| {
        let patch = json!({"spec": {"externalTrafficPolicy": to}}).to_string();
        lab.kubectl(&["patch", "service", SERVICE, "-n", "istio-system", "-p", &patch]);
    };
    let reasons = || -> Vec<String> {
        let events = lab.events("Service", SERVICE);
        events.into_iter().map(|(reason, _)| reason).collect()
    };
    let said = |reason: &str| {
        let seen = poll::until(SOON, || reasons().iter().any(|r| r == reason).then_some(()));
        assert!(
            seen.is_some(),
            "{reason} is not said: {:?}\n{}",
            reasons(),
            agent.process.tail()
        );
    };
    flip("Cluster");
    said("EnforcedInPart");
    // What kubectl shows to who looks at the object.
    let shown = lab.kubectl(&["describe", "service", SERVICE, "-n", "istio-system"]);
    assert!(
        shown.contains("EnforcedInPart") && shown.contains("gwfilter"),
        "{shown}"
    );
    flip("Local");
    said("Enforced");
    flip("Cluster");
    lab.let_in(&agent, Client::A, vip());

    // The next agent says the same words, which were said already.
    let before = reasons();
    agent
        .process
        .signal(nix::sys::signal::Signal::SIGTERM)
        .expect("told to end");
    agent.process.wait_exit(SOON).expect("ended");
    let mut next = lab.start();
    let line = next.process.wait_log("that it speaks", SOON, |log| {
        log.contains("snapshot is written with every change")
            .then_some(())
    });
    line.expect("a second after its start");
    let log = next.process.tail();
    assert!(!log.contains("an Event cannot be written"), "{log}");
    assert_eq!(reasons(), before);
}

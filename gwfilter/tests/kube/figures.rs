//! Figures of the agent in a cluster: printed, not held to a limit. `cargo test … --test kube figures -- --nocapture` shows them.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use xtask::http::{Answer, Connection};
use xtask::poll;
use xtask::site::Client;

use crate::lab::{A, B, Lab, SOON, vip};

/// How many changes are timed.
const CHANGES: usize = 100;
/// How long a connection attempt may take before it counts as dropped; one that is let in takes less than a millisecond.
const BLINK: Duration = Duration::from_millis(60);

fn policy(name: &str, blocks: &[&str]) -> Value {
    json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"namespace": "istio-system", "name": name},
        "spec": {
            "selector": {"matchLabels": {"app": "istio-ingressgateway"}}, "action": "DENY",
            "rules": [{"from": [{"source": {"ipBlocks": blocks}}]}],
        },
    })
}

/// Tries to connect until an attempt is dropped; when that attempt began.
fn first_drop(lab: &Lab) -> Instant {
    let over = Instant::now() + SOON;
    loop {
        let began = Instant::now();
        let answer = Connection::open(&lab.site.client_a, None, vip(), BLINK).err();
        // A second look: a busy machine can be late once.
        if answer == Some(Answer::Timeout)
            && Connection::open(&lab.site.client_a, None, vip(), BLINK).err() == Some(Answer::Timeout)
        {
            return began;
        }
        assert!(began < over, "no packet was dropped within {SOON:?}");
    }
}

fn of_thousand(sorted: &[Duration], rank: usize) -> Duration {
    let at = (sorted.len() * rank).div_ceil(1000).max(1) - 1;
    sorted.get(at).copied().unwrap_or_default()
}

#[test]
fn a_hundred_changes_then_the_time_from_the_servers_answer_to_the_first_dropped_packet() {
    let lab = Lab::new();
    let agent = lab.start();
    let mut times = Vec::new();
    for change in 0..CHANGES {
        lab.cluster
            .put(&policy("timed", &["192.0.2.99"]))
            .expect("written");
        lab.let_in(&agent, Client::A, vip());
        let dropped = std::thread::scope(|scope| {
            let watcher = scope.spawn(|| first_drop(&lab));
            lab.cluster.put(&policy("timed", &[A])).expect("written");
            let answered = Instant::now();
            let dropped = watcher.join().expect("a drop");
            dropped.saturating_duration_since(answered)
        });
        assert!(dropped < SOON, "change {change}: {dropped:?}");
        times.push(dropped);
    }
    times.sort();
    println!(
        "from the API server's answer to the first dropped packet, {CHANGES} changes: median {:?}, p99 {:?}, most {:?}",
        of_thousand(&times, 500),
        of_thousand(&times, 990),
        of_thousand(&times, 1000)
    );
}

#[test]
fn five_thousand_policies_and_two_hundred_services_then_enforced_and_the_agents_memory() {
    let lab = Lab::new();
    let agent = lab.start();
    let services: Vec<Value> = (0..200)
        .map(|number| {
            json!({
                "apiVersion": "v1", "kind": "Service",
                "metadata": {"namespace": "foo", "name": format!("service-{number}")},
                "spec": {"selector": {"app": format!("app-{number}")}, "ports": [{"port": 80}]},
            })
        })
        .collect();
    let policies: Vec<Value> = (0..5000)
        .map(|number| {
            policy(
                &format!("policy-{number}"),
                &[&format!("100.{}.{}.0/24", number / 250, number % 250)],
            )
        })
        .collect();
    let objects: Vec<Value> = services.into_iter().chain(policies).collect();
    let began = Instant::now();
    std::thread::scope(|scope| {
        for part in objects.chunks(objects.len().div_ceil(4)) {
            scope.spawn(|| {
                part.iter()
                    .for_each(|object| drop(lab.cluster.put(object).expect("written")))
            });
        }
    });
    let written = began.elapsed();
    let wrote = Instant::now();
    lab.cluster.put(&policy("last", &[A])).expect("written");
    let seen = poll::until(SOON * 4, || {
        (lab.site.get(Client::A, vip()) == Answer::Timeout).then(|| wrote.elapsed())
    });
    let seen = seen.unwrap_or_else(|| panic!("the last policy is not enforced:\n{}", agent.process.tail()));
    lab.let_in(&agent, Client::B, vip());
    let rss = xtask::process::rss(agent.process.pid()).expect("a resident set");
    println!(
        "5,000 policies and 200 Services, written in {written:?}: the last one enforced {seen:?} after it was written; \
         agent {} MiB, API server {} MiB",
        rss >> 20,
        lab.cluster.api_rss().expect("a resident set") >> 20
    );
    lab.cluster.put(&policy("last", &[B])).expect("written");
    lab.refused(&agent, Client::B, vip());
}

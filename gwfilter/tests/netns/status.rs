//! `gwfilter status` and `gwfilter counters` beside an agent, and when it is dead: their figures are those of the packets that were sent.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "helpers of tests: their panic is the report, and an index of JSON that is not there is null"
)]

use std::fs;

use nix::sys::signal::Signal;
use serde_json::Value;
use xtask::foreign::{self, Says};
use xtask::manifests::ingress_policy;
use xtask::poll;
use xtask::site::{NIC, Site, VIP_PORT, VIP_V4};

use crate::lab::{A, Lab, POLICY, SOON, binary};
use crate::meter::Meter;

const GATEWAY: &str = "istio-system/istio-ingressgateway";
const RULE: &str = "ns[istio-system]-policy[ingress-policy]-rule[0]";

fn gwfilter(lab: &Lab, arguments: &[&str]) -> String {
    lab.site
        .node
        .run(&binary().display().to_string(), arguments)
        .expect("it succeeds")
}

fn json(lab: &Lab, verb: &str) -> Value {
    serde_json::from_str(&gwfilter(lab, &[verb, "-o", "json"])).expect("JSON")
}

/// Sends streams of SYNs, and gives back how many each had.
#[track_caller]
fn send(lab: &Lab, what: &str) -> u64 {
    let meter = Meter::start(&lab.site);
    meter.run_for(600);
    let reading = meter.read(&lab.site);
    lab.site
        .node
        .run("nft", &["delete", "table", "ip", "streams"])
        .expect("deleted");
    reading.must_be_clean(what);
    reading.sent
}

/// `status` and `counters` say that of each stream so many came.
#[track_caller]
fn counted(lab: &Lab, packets: u64) {
    let counters = json(lab, "counters");
    let gateway = &counters["gateways"][GATEWAY];
    assert_eq!(
        [
            &gateway["passed"],
            &gateway["dropped"],
            &gateway["would_drop"],
            &gateway["reasons"]["allowed"]["passed"],
            &gateway["reasons"]["denied-by-rule"]["dropped"],
            &counters["rules"][RULE]["dropped"],
        ],
        [packets, packets, 0, packets, packets, packets]
            .map(Value::from)
            .each_ref(),
        "{counters:#}"
    );
    let status = json(lab, "status");
    let row = gateway_of(&status);
    assert_eq!(
        row["packets"],
        serde_json::json!({"passed": packets, "dropped": packets, "would_drop": 0}),
        "{status:#}"
    );
    let line = format!("passed {packets}, dropped {packets}");
    let text = gwfilter(lab, &["status"]);
    assert!(text.contains(&line), "{line} in {text}");
}

fn gateway_of(status: &Value) -> Value {
    let rows = status["gateways"].as_array().expect("a list");
    let row = rows.iter().find(|row| row["name"] == GATEWAY);
    row.expect("the gateway").clone()
}

#[test]
fn packets_to_a_gateway_then_counted_to_the_last_one_with_an_agent_and_without() {
    let began = gwfilter::survey::now();
    let mut lab = Lab::with("DENY", "ipBlocks", &A, &[]);
    let first = send(&lab, "beside an agent");
    counted(&lab, first);
    // What the agent wrote down follows what it did; before, an agent of a namespace that is gone may have left another file of this name.
    let told = poll::until(SOON, || {
        let status = json(&lab, "status");
        let last = &status["last"];
        let written = last["written_at"].as_u64() >= Some(began);
        (written && last["generation"] == status["generation"] && last["ready"] == true).then_some(status)
    });
    let status = told.expect("written down");
    let at = &status["attached"][0];
    assert_eq!(
        (&at["interface"], &at["mode"]),
        (&NIC.into(), &"native".into()),
        "{status:#}"
    );
    assert_eq!(
        (&at["in_place"], &at["ahead"], &at["multi_buffer"]),
        (&true.into(), &0.into(), &true.into()),
        "{status:#}"
    );
    assert!(
        at["program"]
            .as_str()
            .is_some_and(|name| name.starts_with("gwf_xdp_frags")),
        "{status:#}"
    );
    for key in [&at["since"], &at["loaded_since"], &at["program_id"]] {
        assert!(key.as_u64().is_some_and(|n| n > 0), "{status:#}");
    }
    assert_eq!(status["agent"], "running");
    assert_eq!(status["unknown"], serde_json::json!([]), "{status:#}");
    let last = &status["last"];
    assert!(
        status["generation_since"].as_u64() <= last["written_at"].as_u64(),
        "{status:#}"
    );
    let row = gateway_of(&status);
    let vip = format!("{VIP_V4}:{VIP_PORT}/tcp");
    assert!(
        row["tuples"]
            .as_array()
            .expect("a list")
            .contains(&vip.clone().into()),
        "{row:#}"
    );
    assert_eq!(row["prefixes"], serde_json::json!({"v4": 1, "v6": 1}), "{row:#}");
    let takes = |of: &Value| of["memory_bytes"].as_u64().expect("a number");
    assert!(takes(&row) > 0 && takes(&status) > takes(&row), "{status:#}");
    let wide = gwfilter(&lab, &["status", "-o", "wide"]);
    for part in [
        "first in line",
        "prefixes: 1 IPv4, 1 IPv6",
        &vip,
        "counters: since ",
    ] {
        assert!(wide.contains(part), "{part} in {wide}");
    }
    // Nobody looks after it, and it goes on.
    lab.agent.signal(Signal::SIGKILL).expect("sent");
    lab.agent.wait_exit(SOON).expect("ended");
    let second = send(&lab, "without an agent");
    counted(&lab, first + second);
    let status = json(&lab, "status");
    assert_eq!(status["agent"], "not-running");
    assert_eq!(
        gateway_of(&status)["state"],
        "still enforced, by the last policies"
    );
    assert!(
        status["agent_seen"].as_u64() >= last["written_at"].as_u64(),
        "{status:#}"
    );
    let text = gwfilter(&lab, &["status"]);
    assert!(text.contains("last sign of life of an agent: "), "{text}");
    assert!(gwfilter(&lab, &["counters"]).contains("no agent runs"));
    // Who has which counter is not known any more: the packets are told all the same.
    let id = lab.site.node.enter(gwfilter::dataplane::pins::namespace);
    let id = id.expect("entered").expect("known");
    fs::remove_file(format!("/run/gwfilter/counters-net-{id}.json")).expect("removed");
    let status = json(&lab, "status");
    assert_eq!(status["unknown"].as_array().map(Vec::len), Some(1), "{status:#}");
    let counters = json(&lab, "counters");
    let nameless = counters["gateways"].as_object().expect("rows").iter();
    let dropped = nameless
        .filter(|(name, _)| name.contains("its name is not known"))
        .filter_map(|(_, row)| row["dropped"].as_u64());
    assert_eq!(dropped.sum::<u64>(), first + second, "{counters:#}");
}

#[test]
fn another_program_before_ours_and_no_agent_then_said() {
    let site = Site::new().expect("a site");
    foreign::attach_xdp(&site.node, NIC).expect("attached");
    site.write(POLICY, &ingress_policy("DENY", "ipBlocks", &A))
        .expect("written");
    let mut lab = Lab::on(site, &[]);
    lab.agent.signal(Signal::SIGKILL).expect("sent");
    lab.agent.wait_exit(SOON).expect("ended");
    let at = json(&lab, "status")["attached"][0].clone();
    assert_eq!(
        (&at["hook"], &at["mode"], &at["ahead"]),
        (&"tcx".into(), &"tc".into(), &0.into())
    );
    let _other = foreign::attach_tc_first(&lab.site.node, NIC, Says::Next).expect("attached");
    assert_eq!(json(&lab, "status")["attached"][0]["ahead"], 1);
    let text = gwfilter(&lab, &["status"]);
    assert!(text.contains("behind 1 other program"), "{text}");
}

#[test]
fn counters_watched_then_a_block_each_time_with_the_rates_of_what_came() {
    let lab = Lab::with("DENY", "ipBlocks", &A, &[]);
    let meter = Meter::start(&lab.site);
    let mut watch = lab
        .site
        .start(
            "counters",
            binary(),
            &["counters", "--watch", "200ms", "-o", "json"],
        )
        .expect("started");
    meter.run_for(2_000);
    let blocks = |log: &str| -> Vec<Value> {
        let lines = log.lines().filter(|line| line.starts_with('{'));
        lines.filter_map(|line| serde_json::from_str(line).ok()).collect()
    };
    let dropped = |block: &Value| block["rules"][RULE]["per_second"]["dropped"].as_f64();
    watch
        .wait_log("three blocks with drops", SOON, |log| {
            let stirs = blocks(log)
                .iter()
                .filter(|b| dropped(b).is_some_and(|n| n > 0.0))
                .count();
            (stirs >= 3).then_some(())
        })
        .expect("blocks");
    meter.read(&lab.site).must_be_clean("watched");
    // Once the streams are over, all that was counted is the sum of rates times spans, and what was there before.
    let sum = poll::until(SOON, || {
        let all = blocks(&watch.log());
        let at_rest = all.last().and_then(dropped) == Some(0.0);
        at_rest.then_some(all)
    });
    let all = sum.expect("a block at rest");
    let total = |block: &Value| block["rules"][RULE]["dropped"].as_f64().unwrap_or_default();
    let (first, last) = (all.first().expect("blocks"), all.last().expect("blocks"));
    let rates = all
        .iter()
        .skip(1)
        .map(|block| dropped(block).unwrap_or_default() * block["seconds"].as_f64().unwrap_or_default());
    let came = total(last) - total(first);
    let rates: f64 = rates.sum();
    assert!(
        came > 0.0 && (rates - came).abs() < 1.0,
        "{rates} by rates, {came} came"
    );
}

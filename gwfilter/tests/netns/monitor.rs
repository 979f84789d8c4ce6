//! `gwfilter monitor`: real packets, sampled while somebody watches, and nothing left of it when nobody does.

#![expect(clippy::expect_used, reason = "helpers of tests: their panic is the report")]

use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, connect, socket};
use serde_json::Value;
use xtask::netns::Namespace;
use xtask::poll;
use xtask::process::Process;
use xtask::site::{CLIENT_V4, Client, NIC};

use crate::lab::{B, Lab, SOON, binary, link, start, unload, vip};

/// Starts a monitor and waits until it watches.
#[track_caller]
fn monitor(lab: &Lab, flags: &[&str]) -> Process {
    let arguments = [&["monitor"], flags].concat();
    let site = &lab.site;
    let mut monitor = site
        .start("gwfilter monitor", binary(), &arguments)
        .expect("started");
    let watches = monitor.wait_line("watching verdicts", SOON);
    assert!(watches.is_ok(), "{watches:?}; agent:\n{}", lab.agent.tail());
    monitor
}

/// The lines that are JSON with a verdict.
fn verdicts(log: &str) -> Vec<Value> {
    let lines = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line.get("verdict").is_some()).collect()
}

/// Waits until such a verdict of such a source was told.
#[track_caller]
fn told(monitor: &mut Process, verdict: &str, source: &str) -> Value {
    let source = format!("{source}:");
    let found = monitor.wait_log(verdict, SOON, |log| {
        verdicts(log).into_iter().find(|line| {
            line["verdict"] == verdict && line["source"].as_str().is_some_and(|s| s.starts_with(&source))
        })
    });
    found.expect("told")
}

/// Ends it as Ctrl-C does; what it said.
#[track_caller]
fn ended(mut monitor: Process) -> String {
    let status = monitor.interrupt(SOON).expect("it ends");
    assert_eq!(status.code(), Some(0), "{}", monitor.tail());
    monitor.log()
}

/// Begins connections, each by one SYN.
fn syns(from: &Namespace, to: SocketAddr, count: usize) {
    let to = match to {
        SocketAddr::V4(to) => Some(to),
        SocketAddr::V6(_) => None,
    };
    let to = to.expect("an IPv4 address");
    let begun = from.enter(|| {
        for _ in 0..count {
            let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
            let opened = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
            // It is in progress; the socket goes before there is an answer.
            let _ = connect(opened.as_raw_fd(), &SockaddrIn::from(to));
        }
        nix::Result::Ok(())
    });
    begun.expect("entered").expect("sockets");
}

/// Whether the program on the card is one that samples.
fn samples(lab: &Lab) -> bool {
    let shown = link(&lab.site, NIC);
    // The kernel keeps 15 letters of a name.
    let twin = shown.contains("gwf_xdp_frags_s") || shown.contains("gwf_xdp_sampled");
    assert!(twin || shown.contains("gwf_xdp"), "{shown}");
    twin
}

#[test]
fn packets_then_a_line_each_with_names_and_filters_choose_among_them() {
    let lab = Lab::with("DENY", "ipBlocks", &B, &[]);
    lab.refused(Client::B, vip());
    assert!(!samples(&lab));
    let mut all = monitor(&lab, &["-o", "json"]);
    assert!(samples(&lab), "{}", lab.agent.tail());
    let mut drops = monitor(&lab, &["--verdict", "drop"]);
    let other = monitor(&lab, &["--gateway", "other/gateway", "-o", "json"]);
    let from_a = monitor(&lab, &["--source", CLIENT_V4[0], "-o", "json"]);
    lab.let_in(Client::A, vip());
    lab.refused(Client::B, vip());
    let drop = told(&mut all, "drop", CLIENT_V4[1]);
    assert_eq!(drop["reason"], "denied-by-rule");
    assert_eq!((&drop["hook"], &drop["interface"]), (&"xdp".into(), &NIC.into()));
    assert_eq!(drop["gateway"], "istio-system/istio-ingressgateway");
    assert_eq!(drop["policy"], "ns[istio-system]-policy[ingress-policy]-rule[0]");
    assert_eq!(drop["dest"], vip().to_string());
    let pass = told(&mut all, "pass", CLIENT_V4[0]);
    assert_eq!(
        (&pass["reason"], &pass["policy"]),
        (&"allowed".into(), &Value::Null)
    );
    drops.wait_line("denied-by-rule", SOON).expect("told");
    let text = ended(drops);
    assert!(text.contains(" drop ") && !text.contains(" pass "), "{text}");
    assert!(text.contains(&format!("-> {}/tcp", vip())), "{text}");
    assert!(text.contains("verdicts shown"), "{text}");
    let of_a = verdicts(&ended(from_a));
    let a = format!("{}:", CLIENT_V4[0]);
    assert!(!of_a.is_empty());
    assert!(
        of_a.iter()
            .all(|line| line["source"].as_str().is_some_and(|s| s.starts_with(&a))),
        "{of_a:?}"
    );
    let text = ended(other);
    assert!(
        verdicts(&text).is_empty() && text.contains("no verdict was seen"),
        "{text}"
    );
    assert!(samples(&lab), "one watches still");
    ended(all);
    let plain = poll::until(SOON, || (!samples(&lab)).then_some(()));
    assert!(plain.is_some(), "{}", lab.agent.tail());
    lab.refused(Client::B, vip());
    let log = lab.agent.log();
    assert!(
        !log.contains("attached again") && !log.contains("put back"),
        "{log}"
    );
}

#[test]
fn more_than_the_rate_then_thinned_with_weights_and_said() {
    let lab = Lab::with("DENY", "ipBlocks", &B, &[]);
    lab.refused(Client::B, vip());
    let mut monitor = monitor(&lab, &["-o", "json", "--rate", "10", "--verdict", "drop"]);
    const SYNS: usize = 5000;
    syns(lab.site.client(Client::B), vip(), SYNS);
    monitor
        .wait_line("more verdicts fell meanwhile", SOON)
        .expect("said");
    let log = ended(monitor);
    let told = verdicts(&log);
    let weights: u64 = told.iter().filter_map(|line| line["weight"].as_u64()).sum();
    let syns = u64::try_from(SYNS).expect("a number");
    assert!(told.len() < 200, "{}", told.len());
    assert!((syns / 4..=syns + 100).contains(&weights), "{weights}: {log}");
    assert!(log.contains(r#","unsampled":"#), "{log}");
    assert!(log.contains("of about"), "{log}");
}

#[test]
fn an_agent_that_dies_while_watched_then_said_and_the_next_one_ends_in_plain_programs() {
    let mut lab = Lab::with("DENY", "ipBlocks", &B, &[]);
    lab.refused(Client::B, vip());
    let mut watching = monitor(&lab, &[]);
    assert!(samples(&lab));
    lab.agent.signal(Signal::SIGKILL).expect("sent");
    lab.agent.wait_exit(SOON).expect("ended");
    let status = watching.wait_exit(SOON).expect("it ends too");
    assert_eq!(status.code(), Some(1), "{}", watching.tail());
    assert!(
        watching.log().contains("the agent ended while it was watched"),
        "{}",
        watching.log()
    );
    // What samples refuses on.
    assert!(samples(&lab));
    lab.refused(Client::B, vip());
    let mut nobody = lab
        .site
        .start("gwfilter monitor", binary(), &["monitor"])
        .expect("started");
    assert_eq!(nobody.wait_exit(SOON).expect("at once").code(), Some(1));
    let said = nobody.log();
    assert!(
        said.contains("nobody answers") && said.contains("gwfilter run"),
        "{said}"
    );
    lab.agent = start(&lab.site, &[]);
    assert!(!samples(&lab), "{}", lab.agent.tail());
    lab.refused(Client::B, vip());
    // An agent that is told to end with enforcement kept leaves plain programs.
    let mut watching = monitor(&lab, &[]);
    lab.agent.signal(Signal::SIGTERM).expect("sent");
    assert_eq!(watching.wait_exit(SOON).expect("it ends too").code(), Some(1));
    lab.agent.wait_exit(SOON).expect("ended");
    assert!(!samples(&lab));
    lab.refused(Client::B, vip());
    unload(&lab.site);
}

#[test]
fn nothing_is_dropped_then_said_and_told_as_would_drop() {
    let lab = Lab::with("DENY", "ipBlocks", &B, &["--observe"]);
    let gwfilter = binary().display().to_string();
    lab.site.node.run(&gwfilter, &["pause"]).expect("paused");
    let mut watching = monitor(&lab, &["--verdict", "would-drop"]);
    lab.let_in(Client::B, vip());
    watching.wait_line("would-drop observed", SOON).expect("told");
    let log = ended(watching);
    for note in [
        "note: observe mode: nothing is dropped",
        "note: paused: nothing is dropped",
    ] {
        assert!(log.contains(note), "{log}");
    }
    // Who reads one line and goes away is no failure, and no noise.
    let shell =
        format!("{gwfilter} monitor -o json 2>/dev/null | head -1; echo \"${{PIPESTATUS[0]}} ended\"");
    let mut head = lab
        .site
        .start("head", std::path::Path::new("/bin/bash"), &["-c", &shell])
        .expect("started");
    let end = poll::every(Duration::from_millis(100), SOON, || {
        let _ = lab.site.get(Client::A, vip());
        head.status().map(|_| ())
    });
    assert!(end.is_some(), "{}", head.tail());
    assert!(head.log().contains("0 ended"), "{}", head.log());
    // `--for` ends it.
    let mut short = lab
        .site
        .start("gwfilter monitor", binary(), &["monitor", "--for", "300ms"])
        .expect("started");
    assert_eq!(short.wait_exit(SOON).expect("it ends").code(), Some(0));
}

//! The DaemonSet comes, is upgraded and goes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use xtask::http::{self, Answer};
use xtask::site::{Client, NODE};

use crate::lab::{A, Lab, SOON, vip};

#[test]
fn the_daemonset_deleted_then_nothing_is_left_in_the_kernel() {
    let lab = Lab::new();
    let mut agent = lab.start();
    lab.policy("DENY", &[A]);
    lab.refused(&agent, Client::A, vip());
    let base = xtask::paths::root().join("deploy/base").display().to_string();
    lab.kubectl(&["delete", "-k", &base, "--wait=false"]);
    agent.process.signal(Signal::SIGTERM).expect("told to end");
    let status = agent.process.wait_exit(SOON).expect("ended");
    assert!(status.success(), "{status}:\n{}", agent.process.tail());
    assert!(!lab.attached(), "{}", agent.process.tail());
    lab.let_in(&agent, Client::A, vip());
    let log = agent.process.tail();
    // Whichever word comes first: the DaemonSet's own, or its namespace's.
    assert!(
        log.contains("enforcement is off") && log.contains("deleted\""),
        "{log}"
    );
    let said = lab.unload();
    assert!(said.starts_with("nothing to remove"), "{said}");
}

#[test]
fn the_api_server_gone_or_the_rights_taken_away_but_no_deletion_then_enforcement_stays() {
    for outage in [true, false] {
        let mut lab = Lab::new();
        let mut agent = lab.start();
        lab.policy("DENY", &[A]);
        lab.refused(&agent, Client::A, vip());
        if outage {
            lab.cluster.stop_hard().expect("killed");
        } else {
            lab.kubectl(&["delete", "rolebinding", "gwfilter", "-n", "gwfilter-system"]);
        }
        agent.process.signal(Signal::SIGTERM).expect("told to end");
        let status = agent.process.wait_exit(SOON).expect("ended");
        let log = agent.process.tail();
        assert!(status.success(), "{status}:\n{log}");
        assert!(
            log.contains("cannot be learned; it is taken for an upgrade"),
            "{log}"
        );
        assert!(lab.attached(), "{log}");
        lab.refused(&agent, Client::A, vip());
    }
}

#[test]
fn the_node_no_longer_selected_then_nothing_is_left_in_the_kernel() {
    let lab = Lab::new();
    let mut agent = lab.start();
    lab.policy("DENY", &[A]);
    lab.refused(&agent, Client::A, vip());
    lab.status("running");
    lab.kubectl(&["label", "node", NODE, "kubernetes.io/os=other", "--overwrite"]);
    agent.process.signal(Signal::SIGTERM).expect("told to end");
    let status = agent.process.wait_exit(SOON).expect("ended");
    assert!(status.success(), "{status}:\n{}", agent.process.tail());
    let log = agent.process.tail();
    assert!(log.contains("no longer selects this node"), "{log}");
    assert!(!lab.attached(), "{log}");
    lab.status("not-running");
}

#[test]
fn the_daemonset_upgraded_then_not_one_packet_passes_in_between() {
    let lab = Lab::new();
    let mut agent = lab.start();
    lab.policy("DENY", &[A]);
    lab.refused(&agent, Client::A, vip());
    let over = AtomicBool::new(false);
    let next = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                let answer = http::get(&lab.site.client_a, None, vip(), Duration::from_millis(50));
                assert_eq!(answer, Answer::Timeout, "refused while agents come and go");
            }
        });
        lab.kubectl(&[
            "set",
            "image",
            "daemonset/gwfilter",
            "gwfilter=localhost/gwfilter:next",
            "-n",
            "gwfilter-system",
        ]);
        agent.process.signal(Signal::SIGTERM).expect("told to end");
        let ended = agent.process.wait_exit(SOON);
        let next = ended.is_ok().then(|| lab.start());
        over.store(true, Ordering::SeqCst);
        ended.expect("ended");
        next.expect("the next one")
    });
    assert!(lab.attached());
    assert!(next.pod.to_string().contains("gwfilter:next"));
    lab.refused(&next, Client::A, vip());
    lab.delete_policy();
    lab.let_in(&next, Client::A, vip());
}

#[test]
fn the_observe_overlay_then_no_packet_is_dropped_and_the_log_tells_what_would_be() {
    let lab = Lab::bare();
    lab.deploy("deploy/overlays/observe");
    lab.log_packets();
    let mut agent = lab.start();
    lab.policy("DENY", &[A]);
    lab.let_in(&agent, Client::B, vip());
    let line = agent.process.wait_log("what would be dropped", SOON, |log| {
        assert_eq!(lab.site.get(Client::A, vip()), Answer::Status(200));
        log.lines()
            .rfind(|line| {
                line.contains("remoteIP") && line.contains(A) && line.contains("policy[ingress-policy]")
            })
            .map(ToOwned::to_owned)
    });
    let line = line.expect("a line");
    assert!(line.contains("would"), "{line}");
}

/// The command of the runbook, as its page has it.
#[expect(clippy::expect_used, reason = "a helper of a test: its panic is the report")]
fn stop_for_good() -> Vec<String> {
    let page = include_str!("../../../docs/book/src/runbooks/stop-it-now.md");
    let begins = "kubectl -n gwfilter-system patch daemonset gwfilter ";
    let command = page
        .lines()
        .find(|line| line.starts_with(begins))
        .expect("a command");
    let (words, patch) = command.split_once(" -p '").expect("a patch");
    let words = words.split(' ').skip(1).map(str::to_owned);
    words
        .chain(["-p".to_owned(), patch.trim_end_matches('\'').to_owned()])
        .collect()
}

#[test]
fn stopped_for_good_by_the_runbooks_command_then_the_next_agent_only_observes() {
    let lab = Lab::new();
    let mut agent = lab.start();
    lab.policy("DENY", &[A]);
    lab.refused(&agent, Client::A, vip());
    let command = stop_for_good();
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    lab.kubectl(&words);
    agent.process.signal(Signal::SIGTERM).expect("told to end");
    agent.process.wait_exit(SOON).expect("ended");
    lab.refused(&agent, Client::A, vip());
    let observer = lab.start();
    lab.let_in(&observer, Client::A, vip());
}

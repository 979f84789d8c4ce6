//! The API server goes away and comes back.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use xtask::http::Answer;
use xtask::poll;
use xtask::site::Client;

use crate::lab::{A, B, Lab, SOON, vip};

/// How long the agent bears a watch that says nothing (`gwfilter/src/kube/config.rs`).
const SILENCE: Duration = Duration::from_secs(75);

#[test]
fn the_api_server_killed_and_back_then_enforced_all_the_while_and_changes_are_seen_after() {
    let mut lab = Lab::new();
    let agent = lab.start();
    lab.policy("DENY", &[A]);
    lab.refused(&agent, Client::A, vip());
    lab.cluster.stop_hard().expect("killed");
    let over = Instant::now() + Duration::from_secs(3);
    while Instant::now() < over {
        assert_eq!(
            lab.site.get(Client::A, vip()),
            Answer::Timeout,
            "{}",
            agent.process.tail()
        );
        assert_eq!(
            lab.site.get(Client::B, vip()),
            Answer::Status(200),
            "{}",
            agent.process.tail()
        );
    }
    lab.cluster.restart().expect("back");
    assert_eq!(
        lab.site.get(Client::A, vip()),
        Answer::Timeout,
        "{}",
        agent.process.tail()
    );
    lab.policy("DENY", &[B]);
    lab.refused(&agent, Client::B, vip());
    lab.let_in(&agent, Client::A, vip());
}

#[test]
fn history_compacted_while_cut_off_then_the_agent_lists_again_and_misses_nothing() {
    let mut lab = Lab::new();
    let agent = lab.start();
    lab.policy("DENY", &[A]);
    lab.refused(&agent, Client::A, vip());
    lab.cut();
    lab.policy("DENY", &[B]);
    lab.cluster.stop_hard().expect("killed");
    lab.cluster.compact().expect("compacted");
    lab.cluster.restart().expect("back");
    assert_eq!(
        lab.site.get(Client::A, vip()),
        Answer::Timeout,
        "cut off, the old policy stays"
    );
    lab.mend();
    lab.refused(&agent, Client::B, vip());
    lab.let_in(&agent, Client::A, vip());
}

#[test]
fn connections_that_die_without_a_word_then_noticed_within_half_a_minute() {
    let lab = Lab::new();
    let agent = lab.start();
    lab.policy("DENY", &[A]);
    lab.refused(&agent, Client::A, vip());
    // As when a load balancer forgets them: not even a reset comes back. New ones are let through.
    assert!(lab.cut_connections() > 0);
    let cut = Instant::now();
    lab.policy("DENY", &[B]);
    lab.refused(&agent, Client::B, vip());
    lab.let_in(&agent, Client::A, vip());
    // The kernel's probes notice it, in 19 s; without them it takes as long as the agent bears a watch that says nothing, which is 75 s.
    assert!(cut.elapsed() < SILENCE, "{:?}", cut.elapsed());
}

#[test]
fn a_start_without_the_api_server_then_the_last_good_snapshot_is_in_force_and_is_said_to_be_old() {
    let mut lab = Lab::new();
    let mut agent = lab.start();
    lab.policy("DENY", &[A]);
    lab.refused(&agent, Client::A, vip());
    // Wait until the snapshot with this policy is on the disk: the next agent has nothing else.
    let state = lab.host().disk.join("var/lib/gwfilter");
    let saved = poll::until(SOON, || {
        let files = std::fs::read_dir(&state).ok()?;
        files
            .filter_map(|file| std::fs::read(file.ok()?.path()).ok())
            .any(|bytes| String::from_utf8_lossy(&bytes).contains("ingress-policy"))
            .then_some(())
    });
    assert!(saved.is_some(), "no snapshot in {}", state.display());
    agent.process.signal(Signal::SIGKILL).expect("killed");
    agent.process.wait_exit(SOON).expect("ended");
    lab.unload();
    lab.let_in(&agent, Client::A, vip());
    lab.cluster.stop_hard().expect("killed");

    let began = Instant::now();
    agent.restart(&lab.host()).expect("started");
    // How long the agent itself waits for the API server is the business of `agent::feed`, by a clock that the test holds.
    let first = poll::until(SOON, || {
        let asked = began.elapsed();
        (lab.site.get(Client::A, vip()) == Answer::Timeout).then_some(asked)
    });
    let first = first.unwrap_or_else(|| panic!("nothing in force:\n{}", agent.process.tail()));
    println!("from the start of the agent to the first dropped packet, without the API server: {first:?}");
    lab.let_in(&agent, Client::B, vip());
    agent
        .process
        .wait_log("that it is old", SOON, |log| {
            log.lines()
                .find(|line| line.contains("last good snapshot"))
                .map(ToOwned::to_owned)
        })
        .expect("it says so");

    lab.cluster.restart().expect("back");
    lab.policy("DENY", &[B]);
    lab.refused(&agent, Client::B, vip());
    lab.let_in(&agent, Client::A, vip());
}

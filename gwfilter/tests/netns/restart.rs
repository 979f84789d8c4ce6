//! What the next agent knows of the last one: who has which counter, and which connections are draining.

#![expect(clippy::expect_used, reason = "helpers of tests: their panic is the report")]

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;
use xtask::http::{Answer, Connection};
use xtask::poll;
use xtask::site::Client;

use crate::lab::{A, ALL, B, Lab, SOON, start, unload, vip};

#[track_caller]
fn kill(lab: &mut Lab) {
    lab.agent.signal(Signal::SIGKILL).expect("sent");
    lab.agent.wait_exit(SOON).expect("ended");
}

pub(crate) fn connect(lab: &Lab) -> Connection {
    let mut open =
        Connection::open(&lab.site.client_a, None, vip(), Duration::from_millis(500)).expect("connected");
    assert_eq!(open.get(), Answer::Status(200));
    open
}

/// The file in which the agent notes what is refused and what is draining.
fn draining(lab: &Lab) -> PathBuf {
    let namespace = lab.site.node.enter(gwfilter::dataplane::pins::namespace);
    let id = namespace.expect("entered").expect("known");
    PathBuf::from(format!("/run/gwfilter/draining-net-{id}.json"))
}

/// Waits until what is noted is as `wanted`.
#[track_caller]
pub(crate) fn noted(lab: &Lab, what: &str, wanted: impl Fn(&str) -> bool) {
    let path = draining(lab);
    let found = poll::until(SOON, || {
        fs::read_to_string(&path)
            .is_ok_and(|text| wanted(&text))
            .then_some(())
    });
    let text = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found.is_some(),
        "{what} is not noted in {}: {text}",
        path.display()
    );
}

#[test]
fn a_restart_within_the_drain_window_then_open_connections_live_to_its_end_and_no_longer() {
    let flags = ["--drain", "15s"];
    let mut lab = Lab::with("DENY", "ipBlocks", &B, &flags);
    lab.refused(Client::B, vip());
    let (mut open, mut closes) = (connect(&lab), connect(&lab));
    lab.policy("DENY", "ipBlocks", &ALL);
    lab.refused(Client::A, vip());
    // A's addresses are draining: 198.51.100.7 lies between B's and the end.
    noted(&lab, "the window", |text| text.contains(r#""draining":[["#));
    kill(&mut lab);
    lab.agent = start(&lab.site, &flags);
    assert_eq!(
        lab.site.get(Client::A, vip()),
        Answer::Timeout,
        "new connections stay refused"
    );
    assert_eq!(
        open.get(),
        Answer::Status(200),
        "within the window:\n{}",
        lab.agent.tail()
    );
    let cut = poll::until(SOON + SOON, || (closes.get() == Answer::Timeout).then_some(()));
    assert!(cut.is_some(), "the window is over:\n{}", lab.agent.tail());
    // What is settled is settled for the next agent too. The other connection was at rest, so that its segments come at once.
    noted(&lab, "the end of the window", |text| {
        !text.contains(r#""draining":[["#)
    });
    kill(&mut lab);
    lab.agent = start(&lab.site, &flags);
    assert_eq!(open.get(), Answer::Timeout, "{}", lab.agent.tail());
}

#[test]
fn gwfilter_taken_off_in_between_then_everything_drains_anew() {
    let flags = ["--drain", "2s"];
    let mut lab = Lab::with("DENY", "ipBlocks", &A, &flags);
    lab.refused(Client::A, vip());
    noted(&lab, "the end of the window", |text| {
        text.contains(r#""refused":[["#) && !text.contains(r#""draining":[["#)
    });
    unload(&lab.site);
    lab.agent.wait_exit(SOON).expect("it sees that");
    let mut open = connect(&lab);
    lab.agent = start(&lab.site, &["--drain", "1h"]);
    lab.refused(Client::A, vip());
    assert_eq!(open.get(), Answer::Status(200), "{}", lab.agent.tail());
}

#[test]
fn a_pause_in_between_then_who_came_in_is_not_cut_off() {
    let flags = ["--drain", "2s"];
    let mut lab = Lab::with("DENY", "ipBlocks", &A, &flags);
    lab.refused(Client::A, vip());
    noted(&lab, "the end of the window", |text| {
        text.contains(r#""refused":[["#) && !text.contains(r#""draining":[["#)
    });
    kill(&mut lab);
    let gwfilter = crate::lab::binary().display().to_string();
    lab.site.node.run(&gwfilter, &["pause"]).expect("paused");
    let mut open = connect(&lab);
    lab.site.node.run(&gwfilter, &["resume"]).expect("resumed");
    lab.agent = start(&lab.site, &["--drain", "1h"]);
    lab.refused(Client::A, vip());
    assert_eq!(open.get(), Answer::Status(200), "{}", lab.agent.tail());
}

/// What the last line of the one rule says: since the line before, and in total.
fn dropped(log: &str) -> Option<(u64, u64)> {
    let line = log
        .lines()
        .rev()
        .find(|line| line.contains("policy rule refused"))?;
    let field = |name: &str| {
        let (_, rest) = line.split_once(&format!(" {name}="))?;
        rest.split_whitespace().next()?.parse().ok()
    };
    Some((field("dropped")?, field("dropped_total")?))
}

#[test]
fn counters_over_a_swap_and_a_kill_then_right_to_the_packet() {
    let mut lab = Lab::with("DENY", "ipBlocks", &A, &[]);
    lab.refused(Client::A, vip());
    // A generation in between, which keeps the rule.
    let before = lab.generations();
    lab.policy("DENY", "ipBlocks", &[A.as_slice(), &["10.9.0.0/16"]].concat());
    assert!(poll::until(SOON, || (lab.generations() > before).then_some(())).is_some());
    lab.refused(Client::A, vip());
    // At rest: the line of the last packet is written, and the client sends nothing more.
    let total = |lab: &Lab| dropped(&lab.agent.log()).map_or(0, |(_, total)| total);
    let mut last = 0;
    let rest = poll::every(Duration::from_millis(2500), SOON, || {
        let now = total(&lab);
        (std::mem::replace(&mut last, now) == now && now > 0).then_some(now)
    });
    let first = rest.expect("counters come to rest");
    kill(&mut lab);
    // Nobody reads the counters, and they count.
    assert_eq!(lab.site.get(Client::A, vip()), Answer::Timeout);
    lab.agent = start(&lab.site, &[]);
    let log = lab.agent.log();
    assert_eq!(dropped(&log), None, "what was counted before is no news:\n{log}");
    assert_eq!(lab.site.get(Client::A, vip()), Answer::Timeout);
    let line = lab
        .agent
        .wait_log("the rule's line", SOON, dropped)
        .expect("it counts on");
    let (delta, total) = line;
    assert!(
        total >= first + 2 && total <= first + 6 && delta < total,
        "{first} before the kill, then {line:?}:\n{}",
        lab.agent.tail()
    );
    // Taken off and put on: that begins anew.
    unload(&lab.site);
    lab.agent.wait_exit(SOON).expect("it sees that");
    lab.agent = start(&lab.site, &[]);
    lab.refused(Client::A, vip());
    let line = lab
        .agent
        .wait_log("the rule's line", SOON, dropped)
        .expect("it counts");
    assert_eq!(line.0, line.1, "from zero");
}

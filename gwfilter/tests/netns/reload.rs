//! What happens while policies change.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use xtask::http::{self, Answer, Connection};
use xtask::manifests::ingress_policy;
use xtask::poll;
use xtask::site::{CLIENT_V4, Client};

use crate::lab::{A, ALL, B, Lab, POLICY, SOON, vip};

#[test]
fn policy_rewritten_again_and_again_then_no_moment_is_wrong() {
    const REWRITES: usize = 8;
    let lab = Lab::with("ALLOW", "ipBlocks", &A, &[]);
    lab.refused(Client::B, vip());
    let (over, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let allowed = scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                assert_eq!(
                    lab.site.get(Client::A, vip()),
                    Answer::Status(200),
                    "allowed in every generation"
                );
                asked.fetch_add(1, Ordering::SeqCst);
            }
        });
        let refused = scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                let answer = http::get(&lab.site.client_b, None, vip(), Duration::from_millis(50));
                assert_eq!(answer, Answer::Timeout, "refused in every generation");
            }
        });
        for rewrite in 1..=REWRITES {
            let before = lab.generations();
            lab.policy(
                "ALLOW",
                "ipBlocks",
                &[A.as_slice(), &[&format!("10.{rewrite}.0.0/16")]].concat(),
            );
            let applied = poll::until(SOON, || {
                (lab.generations() > before || allowed.is_finished() || refused.is_finished()).then_some(())
            });
            if applied.is_none() {
                break;
            }
        }
        over.store(true, Ordering::SeqCst);
    });
    assert!(
        lab.generations() > REWRITES,
        "{} generations; agent:\n{}",
        lab.generations(),
        lab.agent.tail()
    );
    assert!(asked.into_inner() > REWRITES, "asked too seldom to say anything");
}

#[test]
fn a_file_that_breaks_then_its_last_good_version_stays() {
    let mut lab = Lab::with("DENY", "ipBlocks", &A, &[]);
    lab.refused(Client::A, vip());
    let good = ingress_policy("DENY", "ipBlocks", &B);
    lab.site
        .write(POLICY, &format!("{good}---\nspec: [unclosed\n"))
        .expect("written");
    lab.agent
        .wait_log("a finding about the broken file", SOON, |log| {
            log.lines()
                .any(|line| line.contains(POLICY) && line.contains("finding"))
                .then_some(())
        })
        .expect("told");
    lab.refused(Client::A, vip());
    lab.let_in(Client::B, vip());
    lab.site.write(POLICY, &good).expect("written");
    lab.refused(Client::B, vip());
    lab.let_in(Client::A, vip());
}

#[test]
fn unreadable_input_that_was_never_good_then_no_default_deny() {
    let lab = Lab::with("ALLOW", "ipBlocks", &A, &[]);
    lab.refused(Client::B, vip());
    lab.site
        .write("another.yaml", "spec: [unclosed\n")
        .expect("written");
    lab.let_in(Client::B, vip());
    lab.site.delete("another.yaml").expect("deleted");
    lab.refused(Client::B, vip());
}

#[test]
fn a_tightened_policy_then_new_connections_fail_at_once_and_open_ones_when_the_drain_window_ends() {
    const DRAIN: Duration = Duration::from_secs(10);
    let lab = Lab::with("DENY", "ipBlocks", &B, &["--drain", "10s"]);
    lab.refused(Client::B, vip());
    let connect =
        || Connection::open(&lab.site.client_a, None, vip(), Duration::from_millis(500)).expect("connected");
    let (mut open, mut closes) = (connect(), connect());
    assert_eq!(open.get(), Answer::Status(200));
    assert_eq!(closes.get(), Answer::Status(200));
    lab.policy("DENY", "ipBlocks", &ALL);
    lab.refused(Client::A, vip());
    assert_eq!(
        open.get(),
        Answer::Status(200),
        "open before, and the window is not over; agent:\n{}",
        lab.agent.tail()
    );
    let cut = poll::until(DRAIN + SOON, || (closes.get() == Answer::Timeout).then_some(()));
    assert!(cut.is_some(), "the window is over; agent:\n{}", lab.agent.tail());
}

#[test]
fn a_policy_deleted_then_everybody_is_let_in_at_once() {
    let lab = Lab::with("DENY", "ipBlocks", &[CLIENT_V4[0]], &[]);
    lab.refused(Client::A, vip());
    lab.site.delete(POLICY).expect("deleted");
    lab.let_in(Client::A, vip());
}

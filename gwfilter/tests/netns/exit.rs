//! What becomes of enforcement when the agent ends, and when another one starts.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use xtask::foreign;
use xtask::http::{self, Answer};
use xtask::site::{Client, NIC};

use crate::lab::{A, ALL, Lab, SOON, start, unload, vip};

#[test]
fn the_agent_ends_then_enforcement_stays_or_goes_as_the_flag_and_the_signal_say() {
    for (signal, flags, stays) in [
        (Signal::SIGINT, &[][..], false),
        (Signal::SIGTERM, &[], true),
        (Signal::SIGINT, &["--on-exit", "keep"], true),
        (Signal::SIGTERM, &["--on-exit", "detach"], false),
    ] {
        let mut lab = Lab::with("DENY", "ipBlocks", &A, flags);
        lab.refused(Client::A, vip());
        lab.agent.signal(signal).expect("sent");
        let status = lab.agent.wait_exit(SOON).expect("ended");
        assert!(
            status.success(),
            "{signal} {flags:?}: {status}\n{}",
            lab.agent.tail()
        );
        if stays {
            assert_eq!(
                lab.site.get(Client::A, vip()),
                Answer::Timeout,
                "{signal} {flags:?}"
            );
            assert_eq!(
                lab.site.get(Client::B, vip()),
                Answer::Status(200),
                "{signal} {flags:?}"
            );
            assert!(
                lab.agent.log().contains("gwfilter unload"),
                "it says how to undo it:\n{}",
                lab.agent.tail()
            );
            let said = unload(&lab.site);
            assert!(said.contains(NIC), "{said}");
        } else {
            assert!(
                lab.agent.log().contains("enforcement is off"),
                "{}",
                lab.agent.tail()
            );
        }
        assert_eq!(
            foreign::xdp_id(&lab.site.node, NIC).expect("shown"),
            None,
            "{signal} {flags:?}"
        );
        assert_eq!(
            lab.site.get(Client::A, vip()),
            Answer::Status(200),
            "{signal} {flags:?}"
        );
    }
}

#[test]
fn one_agent_killed_and_the_next_one_started_then_no_gap_and_the_next_one_rules() {
    let mut lab = Lab::with("DENY", "ipBlocks", &A, &[]);
    lab.refused(Client::A, vip());
    let over = AtomicBool::new(false);
    let next = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                let answer = http::get(&lab.site.client_a, None, vip(), Duration::from_millis(50));
                assert_eq!(answer, Answer::Timeout, "refused while agents come and go");
            }
        });
        lab.agent.signal(Signal::SIGKILL).expect("sent");
        lab.agent.wait_exit(SOON).expect("ended");
        let next = start(&lab.site, &[]);
        over.store(true, Ordering::SeqCst);
        next
    });
    let lab = Lab {
        agent: next,
        site: lab.site,
    };
    lab.refused(Client::A, vip());
    lab.policy("DENY", "ipBlocks", &ALL);
    lab.refused(Client::B, vip());
}

#[test]
fn unload_with_an_agent_running_then_enforcement_is_off_and_the_agent_ends() {
    let mut lab = Lab::with("DENY", "ipBlocks", &A, &[]);
    lab.refused(Client::A, vip());
    let said = unload(&lab.site);
    assert!(said.contains(NIC), "{said}");
    assert_eq!(lab.site.get(Client::A, vip()), Answer::Status(200));
    let status = lab.agent.wait_exit(SOON).expect("it sees that it was unloaded");
    assert!(status.success(), "{status}\n{}", lab.agent.tail());
    assert!(unload(&lab.site).starts_with("nothing to remove: "));
}

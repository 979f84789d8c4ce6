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
    replaced(|_| ());
}

#[test]
fn an_agent_of_another_abi_killed_and_ours_started_then_no_gap_and_nothing_of_the_other_is_left() {
    // What an agent leaves is links and maps under a directory of its ABI; a link does not care under which.
    let lab = replaced(|lab| {
        let script = "mv /sys/fs/bpf/gwfilter/v* /sys/fs/bpf/gwfilter/v1";
        lab.site.node.run("sh", &["-c", script]).expect("moved");
    });
    let left = lab
        .site
        .node
        .run("find", &["/sys/fs/bpf/gwfilter", "-name", "v1"])
        .expect("listed");
    assert_eq!(left, "");
}

/// An agent is killed and `between` happens; the next one rules, and at no moment is anybody let in, or kept out, who should not be.
#[expect(clippy::expect_used, reason = "a test helper")]
fn replaced(between: impl FnOnce(&Lab)) -> Lab {
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
        scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                let answer = lab.site.get(Client::B, vip());
                assert_eq!(answer, Answer::Status(200), "let in while agents come and go");
            }
        });
        lab.agent.signal(Signal::SIGKILL).expect("sent");
        lab.agent.wait_exit(SOON).expect("ended");
        between(&lab);
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
    lab
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

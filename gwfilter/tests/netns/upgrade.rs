//! Agents come, go and are replaced by others while two streams run: one that must never arrive, one that always must.

#![expect(clippy::expect_used, reason = "helpers of tests: their panic is the report")]

use std::time::Duration;

use nix::sys::signal::Signal;
use xtask::process::Process;
use xtask::site::{Client, NIC, Site};

use crate::lab::{A, Lab, SOON, binary, launch, start, unload, vip};
use crate::meter::Meter;

fn end(mut agent: Process, signal: Signal) {
    agent.signal(signal).expect("sent");
    agent.wait_exit(SOON).expect("ended");
}

/// A site where an agent refuses client A and lets client B in, and the agent.
fn enforced(flags: &[&str]) -> (Site, Process) {
    let lab = Lab::with("DENY", "ipBlocks", &A, flags);
    lab.refused(Client::A, vip());
    lab.let_in(Client::B, vip());
    (lab.site, lab.agent)
}

/// Makes what is pinned look like the work of another ABI.
fn becomes(site: &Site, abi: &str) {
    let script = format!("mv /sys/fs/bpf/gwfilter/v* /sys/fs/bpf/gwfilter/{abi}");
    site.node.run("sh", &["-c", &script]).expect("moved");
}

#[test]
fn another_object_another_abi_and_back_again_then_no_packet_is_wrong() {
    let (site, mut agent) = enforced(&[]);
    let meter = Meter::start(&site);
    // The packet log is a constant of the programs: with another one they are other programs.
    let objects = [&["--packet-log", "off"][..], &["--packet-log", "all"]];
    for (round, object) in objects.into_iter().cycle().take(4).enumerate() {
        meter.run_for(100);
        end(
            agent,
            if round % 2 == 0 {
                Signal::SIGTERM
            } else {
                Signal::SIGKILL
            },
        );
        if round >= 2 {
            becomes(&site, "v1");
        }
        agent = start_with(&site, object);
        meter.run_for(100);
    }
    meter
        .read(&site)
        .must_be_clean("four agents, two objects, two ABIs");
    end(agent, Signal::SIGINT);
}

/// An agent with a packet log of its own.
fn start_with(site: &Site, object: &[&str]) -> Process {
    let from = site.manifests().display().to_string();
    let arguments = [&["run", "--from", &from, "--interface", NIC], object].concat();
    let mut agent = site.start("gwfilter run", binary(), &arguments).expect("started");
    agent.wait_line("agent runs", SOON).expect("a running agent");
    agent
}

#[test]
fn agents_killed_at_any_moment_of_their_start_then_no_packet_is_wrong_and_the_last_one_rules() {
    let (site, agent) = enforced(&[]);
    end(agent, Signal::SIGKILL);
    let meter = Meter::start(&site);
    // Steps that do not divide the start evenly: each agent dies somewhere else.
    for round in 0..12_u64 {
        let agent = launch(&site, &["--interface", NIC]);
        let until = std::time::Instant::now() + Duration::from_millis(7 + round * 37);
        let _ = xtask::poll::until(Duration::from_secs(5), || {
            (std::time::Instant::now() >= until).then_some(())
        });
        end(agent, Signal::SIGKILL);
    }
    let agent = start(&site, &[]);
    meter.run_for(200);
    meter
        .read(&site)
        .must_be_clean("twelve agents killed at their start");
    let files = site
        .node
        .run("find", &["/sys/fs/bpf/gwfilter", "-type", "f"])
        .expect("listed");
    let roots = files.lines().filter(|path| path.ends_with("-root")).count();
    assert_eq!(roots, 1, "nothing of the dead ones is left: {files}");
    let lab = Lab { site, agent };
    lab.policy("DENY", "ipBlocks", &crate::lab::B);
    lab.refused(Client::B, vip());
    lab.let_in(Client::A, vip());
}

#[test]
fn unload_with_an_agent_that_is_frozen_then_all_is_off_and_it_brings_nothing_back() {
    let mut lab = Lab::with("DENY", "ipBlocks", &A, &["--verify-every", "1s"]);
    lab.refused(Client::A, vip());
    lab.agent.signal(Signal::SIGSTOP).expect("sent");
    let said = unload(&lab.site);
    assert!(
        said.contains("removed xdp from eth0") && said.contains("has not ended yet"),
        "{said}"
    );
    lab.let_in(Client::A, vip());
    lab.agent.signal(Signal::SIGCONT).expect("sent");
    let status = lab.agent.wait_exit(SOON).expect("it sees that it was unloaded");
    assert_eq!(status.code(), Some(0), "{}", lab.agent.tail());
    assert!(
        lab.agent.log().contains("was unloaded by somebody else"),
        "{}",
        lab.agent.tail()
    );
    lab.let_in(Client::A, vip());
    assert!(unload(&lab.site).starts_with("nothing to remove: "));
}

#[test]
fn unload_that_was_cut_off_then_the_next_one_finishes_it() {
    let (site, agent) = enforced(&[]);
    end(agent, Signal::SIGKILL);
    let script = "cd /sys/fs/bpf/gwfilter/v*; for d in net-*; do mv $d unload-${d#net-}; done";
    site.node.run("sh", &["-c", script]).expect("moved");
    let said = unload(&site);
    assert!(said.contains("removed xdp from eth0"), "{said}");
    let lab = Lab {
        agent: start(&site, &[]),
        site,
    };
    lab.refused(Client::A, vip());
    let said = unload(&lab.site);
    assert!(said.contains("the agent that ran here has ended"), "{said}");
    lab.let_in(Client::A, vip());
}

#[test]
fn tables_of_an_earlier_agent_then_the_next_one_says_how_they_differ_from_its_own() {
    let (site, agent) = enforced(&[]);
    end(agent, Signal::SIGKILL);
    let left = |agent: &mut Process| {
        let line = agent
            .wait_line("destinations that an earlier agent left", SOON)
            .expect("told");
        let rest = line.split_once("same=").map(|(_, rest)| format!("same={rest}"));
        rest.expect("figures")
    };
    let mut agent = start(&site, &[]);
    assert_eq!(left(&mut agent), "same=8 otherwise=0 no_longer=0 anew=0");
    end(agent, Signal::SIGKILL);
    site.write(
        crate::lab::POLICY,
        &xtask::manifests::ingress_policy("DENY", "ipBlocks", &crate::lab::B[..1]),
    )
    .expect("written");
    let mut agent = start(&site, &[]);
    let said = left(&mut agent);
    assert!(!said.contains("otherwise=0"), "{said}");
    end(agent, Signal::SIGINT);
}

#[test]
fn a_pause_then_it_outlives_an_agent_of_another_abi() {
    let (site, agent) = enforced(&[]);
    let binary = binary().display().to_string();
    site.node.run(&binary, &["pause"]).expect("paused");
    let mut lab = Lab { site, agent };
    lab.let_in(Client::A, vip());
    end(lab.agent, Signal::SIGKILL);
    becomes(&lab.site, "v1");
    lab.agent = start(&lab.site, &[]);
    lab.let_in(Client::A, vip());
    lab.site.node.run(&binary, &["resume"]).expect("resumed");
    lab.refused(Client::A, vip());
}

#[test]
fn a_pause_while_the_next_agent_makes_its_tables_then_it_is_paused_too() {
    let (site, agent) = enforced(&[]);
    end(agent, Signal::SIGKILL);
    becomes(&site, "v1");
    let mut lab = Lab {
        agent: launch_slow(&site),
        site,
    };
    // A table of it is on its way to its place: it has asked for a pause, and its own map is not pinned yet.
    let tables = "ls /sys/fs/bpf/gwfilter/v*/net-*/ | grep -q -- '-new$'";
    let made = xtask::poll::until(SOON, || {
        lab.site.node.run("sh", &["-c", tables]).is_ok().then_some(())
    });
    assert!(made.is_some(), "{}", lab.agent.tail());
    let binary = binary().display().to_string();
    lab.site.node.run(&binary, &["pause"]).expect("paused");
    lab.agent.wait_line("agent runs", SOON).expect("it runs");
    lab.let_in(Client::A, vip());
    lab.site.node.run(&binary, &["resume"]).expect("resumed");
    lab.refused(Client::A, vip());
}

/// Starts an agent that waits for a second before each table, and each note, is in its place.
fn launch_slow(site: &Site) -> Process {
    let (binary, from) = (
        binary().display().to_string(),
        site.manifests().display().to_string(),
    );
    let delay = "inject=rename:delay_enter=1000000";
    let tracer = [
        "-D",
        "-f",
        "-q",
        "-o",
        "/dev/null",
        "-e",
        "trace=rename",
        "-e",
        delay,
    ];
    let agent = [
        &binary,
        "run",
        "--from",
        &from,
        "--interface",
        NIC,
        "--packet-log",
        "all",
    ];
    site.start(
        "gwfilter run",
        std::path::Path::new("strace"),
        &[&tracer[..], &agent].concat(),
    )
    .expect("started")
}

//! The shipped seccomp profile: enough for the agent's whole life, and no more than it lists.

#![expect(clippy::expect_used, reason = "helpers of tests: their panic is the report")]

use std::fs;
use std::process::Command;

use nix::sys::signal::Signal;
use xtask::cluster::seccomp::{FOLDER, Profile};
use xtask::paths;
use xtask::site::Client;

use crate::lab::{A, B, Lab, SOON, vip};

/// A cluster whose node has the profile, and the overlay that asks for it.
fn lab() -> Lab {
    let lab = Lab::bare();
    let folder = lab.host().disk.join(FOLDER);
    fs::create_dir_all(&folder).expect("the kubelet's folder");
    let shipped = paths::root().join("deploy/seccomp/gwfilter.json");
    fs::copy(shipped, folder.join("gwfilter.json")).expect("the profile on the node");
    lab.deploy("deploy/overlays/seccomp");
    lab.log_packets();
    lab
}

#[test]
fn the_profile_installed_then_the_agent_attaches_swaps_adopts_and_takes_off_under_it() {
    let lab = lab();
    let mut agent = lab.start();
    // 2: a filter.
    assert_eq!(agent.status("Seccomp").expect("a line"), "2");
    assert_eq!(agent.status("NoNewPrivs").expect("a line"), "1");
    let tracer = |pid: u32| {
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-e", "trace=all", "-p", &pid.to_string()]);
        let mut tracer = xtask::process::Process::spawn(&lab.site.node, "strace", command).expect("strace");
        // It says nothing of having attached; the agent's loop turns twice a second.
        tracer.wait_line("epoll", SOON).expect("attached");
        tracer
    };
    let mut first = tracer(agent.process.pid());
    lab.policy("DENY", &[A]);
    lab.refused(&agent, Client::A, vip());
    lab.policy("DENY", &[B]);
    lab.refused(&agent, Client::B, vip());
    lab.let_in(&agent, Client::A, vip());
    lab.status("running");
    agent.restart(&lab.host()).expect("started again");
    first.wait_exit(SOON).expect("its tracee is gone");
    let adopted = agent.process.wait_log("what it took over", SOON, |log| {
        log.contains("adopted=true").then_some(())
    });
    adopted.expect("adopted");
    lab.wait_ready(&mut agent);
    let mut second = tracer(agent.process.pid());
    lab.refused(&agent, Client::B, vip());
    let overlay = paths::root()
        .join("deploy/overlays/seccomp")
        .display()
        .to_string();
    lab.kubectl(&["delete", "-k", &overlay, "--wait=false"]);
    agent.process.signal(Signal::SIGTERM).expect("told to end");
    let status = agent.process.wait_exit(SOON).expect("ended");
    assert!(status.success(), "{status}:\n{}", agent.process.tail());
    assert!(!lab.attached(), "{}", agent.process.tail());
    second.wait_exit(SOON).expect("its tracee is gone");
    // What the filter refuses ends in EPERM, and need not be noticed otherwise.
    for trace in [first.log(), second.log()] {
        let refused: Vec<&str> = trace.lines().filter(|line| line.contains("EPERM")).collect();
        assert!(refused.is_empty(), "{refused:#?}");
        assert!(trace.contains("bpf("), "nothing was traced");
    }
}

#[test]
fn a_node_without_the_profile_then_no_agent_starts() {
    let lab = lab();
    fs::remove_dir_all(lab.host().disk.join(FOLDER)).expect("removed");
    let error = lab.try_launch().expect_err("as a kubelet refuses");
    assert!(format!("{error:#}").contains("gwfilter.json"), "{error:#}");
}

#[test]
fn a_system_call_outside_the_profile_then_refused() {
    let lab = xtask::netns::Namespace::new("any").expect("a namespace; this test needs root");
    let profile = Profile::load(&paths::root().join("deploy/seccomp/gwfilter.json")).expect("a profile");
    for words in [
        ["unshare", "--net", "true"].as_slice(),
        &["unshare", "--mount", "true"],
        &["mount", "-t", "tmpfs", "none", "/mnt"],
        &["chroot", "/", "/bin/true"],
        &["nsenter", "--net=/proc/self/ns/net", "true"],
        &["setpriv", "--reuid=1", "true"],
    ] {
        let (program, arguments) = words.split_first().expect("a program");
        let run = |confined: bool| {
            let mut command = Command::new(program);
            command.args(arguments);
            if confined {
                profile.confine(&mut command);
            }
            lab.output(&mut command).expect("it starts")
        };
        let free = run(false);
        assert!(free.status.success(), "{words:?} without the profile: {free:?}");
        let confined = run(true);
        let said = String::from_utf8_lossy(&confined.stderr);
        assert!(!confined.status.success(), "{words:?} was allowed");
        assert!(
            said.to_lowercase().contains("not permitted") || said.contains("denied"),
            "{words:?}: {said}"
        );
    }
}

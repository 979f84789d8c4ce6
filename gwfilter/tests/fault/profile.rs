//! The shipped seccomp profile against what the agent asks of the kernel in its life. (`tests/kube/seccomp.rs` runs it under the profile.)

use std::collections::BTreeSet;
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;
use xtask::paths;

use crate::lab::{Change, Lab, SOON, binary, launch_traced};

/// Names of calls in a trace.
fn names(trace: &str) -> BTreeSet<String> {
    let name = |line: &str| {
        let (_, rest) = line.split_once(' ')?;
        let (name, _) = rest.trim_start().split_once('(')?;
        let call = !name.is_empty()
            && name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        call.then(|| name.to_owned())
    };
    trace.lines().filter_map(name).collect()
}

#[test]
fn each_call_of_an_agents_life_and_of_the_commands_then_in_the_shipped_profile() {
    let path = paths::root().join("deploy/seccomp/gwfilter.json");
    let profile: Value =
        serde_json::from_str(&std::fs::read_to_string(path).expect("a profile")).expect("JSON");
    let rules = profile["syscalls"].as_array().expect("rules");
    let allowed: BTreeSet<String> = rules
        .iter()
        .flat_map(|rule| rule["names"].as_array().expect("names"))
        .map(|name| name.as_str().expect("a name").to_owned())
        .collect();
    let folder = TempDir::new().expect("a folder");
    let trace = |name: &str| folder.path().join(name);
    let mut lab = Lab::new();
    // Adopted from an agent that was killed, through every change, taken off at the end.
    lab.agent.signal(Signal::SIGKILL).expect("killed");
    lab.agent.wait_exit(SOON).expect("ended");
    lab.agent = launch_traced(&lab.site, "all", None, &trace("run"));
    lab.agent.wait_line("agent runs", SOON).expect("it runs");
    for change in Change::ROUND {
        lab.change(change);
        lab.settle(&format!("{change:?}"));
    }
    let traced = |name: &str, words: &[&str]| {
        let mut command = Command::new("strace");
        command
            .args(["-f", "-q", "-o"])
            .arg(trace(name))
            .arg(binary())
            .args(words);
        let output = lab.site.node.output(&mut command).expect("strace");
        assert!(output.status.success(), "{words:?}: {output:?}");
    };
    traced("status", &["status", "-o", "json"]);
    traced("counters", &["counters"]);
    lab.agent.signal(Signal::SIGTERM).expect("told to end");
    lab.agent.wait_exit(SOON).expect("ended");
    traced("unload", &["unload"]);
    let mut seen = BTreeSet::new();
    for name in ["run", "status", "counters", "unload"] {
        seen.extend(names(&std::fs::read_to_string(trace(name)).expect("a trace")));
    }
    for sure in ["bpf", "epoll_wait", "execve", "openat"] {
        assert!(seen.contains(sure), "{sure} is not among {seen:?}");
    }
    let missing: Vec<&String> = seen.difference(&allowed).collect();
    assert!(missing.is_empty(), "not in the profile: {missing:?}");
}

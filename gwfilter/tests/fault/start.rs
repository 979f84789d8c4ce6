//! An agent that starts over what an earlier one pinned, with a fault at each system call: what was enforced stays so.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests: their panic is the report, and figures go to the test's output"
)]

use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use tempfile::TempDir;
use xtask::http::Answer;
use xtask::poll;
use xtask::process::Process;
use xtask::site::{Client, NIC, Site, VIP_PORT, VIP_V4, destination};

use crate::lab::{Change, Lab, SELDOM, SOON, binary, launch, launch_traced, site};
use crate::strace::{BPF, Fault, Kind, all, count, words};

/// So many starts with a fault, unless all are asked for.
const STARTS: usize = 24;
/// The first calls, of which each is tried if all are asked for.
const MANY: usize = 200;

/// Ends an agent as nothing else does.
fn kill(agent: &mut Process) {
    if agent.status().is_none() {
        agent.signal(Signal::SIGKILL).expect("killed");
    }
    agent.wait_exit(SOON).expect("ended");
}

/// Starts agent after agent, each with another call that fails.
fn every_call(kind: Kind) {
    let Kind { call, errors } = kind;
    let mut lab = Lab::new();
    kill(&mut lab.agent);
    lab.steady();
    let folder = TempDir::new().expect("a folder");
    let trace = folder.path().join("trace");
    lab.agent = launch_traced(&lab.site, call, None, &trace);
    lab.agent.wait_line("agent runs", SOON).expect("it runs");
    let calls = count(&std::fs::read_to_string(&trace).expect("a trace"), call);
    assert!(calls > 0, "no call was seen");
    // Most calls of a start read tables to compare them: those are thinned out in any case.
    let few = calls.min(MANY);
    let step = if all() { 1 } else { few.div_ceil(STARTS).max(1) };
    let thin = calls.div_ceil(if all() { MANY } else { STARTS / 4 }).max(1);
    let numbers = (1..=few).step_by(step).chain((few + 1..=calls).step_by(thin));
    let (mut ran, mut ended, mut met) = (0, 0, 0);
    for nth in numbers {
        let chosen = if all() {
            errors
        } else {
            errors
                .get(nth % errors.len()..)
                .and_then(|e| e.get(..1))
                .unwrap_or_default()
        };
        for error in chosen.iter().copied() {
            kill(&mut lab.agent);
            let fault = Fault {
                call,
                error,
                nth,
                lasting: nth % 3 == 0,
            };
            let when = format!("start, {fault}");
            lab.agent = launch_traced(&lab.site, call, Some(&fault), &trace);
            // Either it gets along with it, or it ends and says why.
            let runs = poll::until(SOON, || {
                let ended = lab.agent.status().is_some();
                lab.look(&when);
                if lab.agent.log().contains("agent runs") {
                    return Some(true);
                }
                ended.then_some(false)
            });
            let Some(runs) = runs else {
                panic!("{when}: it neither runs nor ends:\n{}", lab.agent.tail());
            };
            lab.look(&when);
            let trace = std::fs::read_to_string(&trace).expect("a trace");
            met += usize::from(trace.contains("(INJECTED)"));
            if runs {
                ran += 1;
            } else {
                ended += 1;
                let log = lab.agent.log();
                // The number may be another one: a probe of what the kernel can do that fails changes what is asked of it later. Where the
                // probe is that for maps of data, aya makes none, and what needs them cannot be relocated.
                let why = [
                    "os error",
                    "the eBPF object cannot be loaded into this kernel: error relocating",
                ];
                assert!(
                    why.iter().any(|why| log.contains(why)),
                    "{when}: it ended and does not say why:\n{log}"
                );
            }
        }
    }
    println!(
        "{call}: {calls} calls; of {} starts with a fault ({met} met) {ran} ran and {ended} ended",
        ran + ended
    );
    assert!(met > 0, "no fault was met");
    kill(&mut lab.agent);
    lab.agent = launch(&lab.site, SELDOM);
    lab.agent.wait_line("agent runs", SOON).expect("it runs");
    lab.settle("after all");
    lab.change(Change::Tightened);
    lab.settle("after all, a change");
}

#[test]
fn each_bpf_call_of_a_start_fails_then_what_the_last_agent_pinned_stays_in_force() {
    every_call(BPF);
}

/// Starts an agent with a lease of six seconds on these interfaces; `fault`: under a tracer.
fn on(site: &Site, interfaces: &[&str], fault: Option<&Fault>) -> Process {
    let mut command = match fault {
        None => Command::new(binary()),
        Some(_) => Command::new("strace"),
    };
    if let Some(fault) = fault {
        command.args(words(fault.call, Some(fault), "/dev/null"));
        command.arg(binary());
    }
    let from = site.manifests().display().to_string();
    command.args([
        "run",
        "--from",
        &from,
        "--drain",
        "0",
        "--lease",
        "6s",
        "--pod-lease",
        "6s",
    ]);
    for interface in interfaces {
        command.args(["--interface", interface]);
    }
    let mut agent = Process::spawn(&site.node, "gwfilter run", command).expect("started");
    agent.wait_line("agent runs", SOON).expect("it runs");
    agent
}

#[test]
fn an_old_program_that_cannot_be_taken_off_then_nobody_renews_the_lease_that_it_asks() {
    let site = site();
    let (mut agent, at) = (
        on(&site, &[NIC, "pods"], None),
        destination(VIP_V4, VIP_PORT).expect("an address"),
    );
    kill(&mut agent);
    // It serves one card; the program on the other one keeps the tables of the first agent.
    let fault = Fault {
        call: "unlink",
        error: "EPERM",
        nth: 1,
        lasting: true,
    };
    agent = on(&site, &[NIC], Some(&fault));
    agent
        .wait_line("an old pin cannot be removed", SOON)
        .expect("told");
    agent
        .wait_line("a program with old tables cannot be detached", SOON)
        .expect("told as why the lease ends");
    let opened = poll::every(Duration::from_millis(500), SOON, || {
        (site.get(Client::A, at) == Answer::Status(200)).then_some(())
    });
    assert!(opened.is_some(), "{}", agent.tail());
    kill(&mut agent);
    agent = on(&site, &[NIC], None);
    let shut = poll::every(Duration::from_millis(500), SOON, || {
        (site.get(Client::A, at) == Answer::Timeout).then_some(())
    });
    assert!(shut.is_some(), "{}", agent.tail());
}

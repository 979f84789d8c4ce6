//! An agent that starts over what an earlier one pinned, with a fault at each system call: what was enforced stays so.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests: their panic is the report, and figures go to the test's output"
)]

use nix::sys::signal::Signal;
use tempfile::TempDir;
use xtask::process::Process;

use crate::lab::{Change, Lab, SELDOM, SOON, launch, launch_traced};
use crate::strace::{BPF, Fault, Kind, all, count};

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
            let runs = xtask::poll::until(SOON, || {
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
                // The number may be another one: a probe of what the kernel can do that fails changes what is asked of it later.
                assert!(
                    log.contains("os error"),
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

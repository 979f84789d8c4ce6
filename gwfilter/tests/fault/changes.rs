//! A policy becomes tighter, then looser; a gateway and an address come and go: with a fault at each system call that it takes.

#![expect(
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests: their panic is the report, and figures go to the test's output"
)]

use std::time::{Duration, Instant};

use crate::lab::{Change, Lab};
use crate::strace::{Fault, Strace, all, count, errors};

/// Sites at a time: a test mostly waits.
const LANES: usize = 4;
/// So many calls of a change, unless all are asked for.
const SOME: usize = 12;
/// How long a lasting fault is there.
const LASTS: Duration = Duration::from_millis(1500);

/// Every fault of a call at a change; or, unless all are asked for, some calls, evenly spread, with one error after the other.
fn faults(call: &'static str, calls: usize) -> Vec<Fault> {
    let step = if all() { 1 } else { calls.div_ceil(SOME) };
    let mut faults = Vec::new();
    for (turn, nth) in (1..=calls).step_by(step.max(1)).enumerate() {
        for (number, error) in errors(call).iter().copied().enumerate() {
            for lasting in [false, true] {
                let chosen = number == turn % errors(call).len() && lasting == (turn % 2 == 1);
                if all() || chosen {
                    faults.push(Fault {
                        call,
                        error,
                        nth,
                        lasting,
                    });
                }
            }
        }
    }
    faults
}

/// Changes with faults, until all were tried; several sites share the work. `of`: the changes that such calls are made for.
fn every_call(call: &'static str, of: fn(Change) -> bool) {
    let (tried, met) = std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..LANES)
            .map(|lane| scope.spawn(move || share(call, of, lane)))
            .collect();
        lanes.into_iter().fold((0, 0), |sum, lane| match lane.join() {
            Ok(figures) => (sum.0 + figures.0, sum.1 + figures.1),
            Err(report) => std::panic::resume_unwind(report),
        })
    });
    println!("{call}: {tried} faults tried, {met} met");
    assert!(met > 0, "no fault was met");
}

/// One site's share: how many faults it tried, and how many happened.
fn share(call: &'static str, of: fn(Change) -> bool, lane: usize) -> (usize, usize) {
    let mut lab = Lab::new();
    let pid = lab.agent.pid();
    // Once without a fault, to learn how many calls each change takes.
    let mut lists = Vec::new();
    for change in Change::ROUND {
        let tracer = Strace::attach(&lab.site.node, pid, call, None);
        lab.change(change);
        lab.settle(&format!("{change:?}, no fault"));
        let trace = tracer.detach();
        let calls = if of(change) { count(&trace, call) } else { 0 };
        if lane == 0 {
            println!("{change:?}: {calls} calls of {call}");
        }
        lists.push((change, faults(call, calls).into_iter().skip(lane).step_by(LANES)));
    }
    let (mut tried, mut met) = (0, 0);
    loop {
        let mut any = false;
        for (change, faults) in &mut lists {
            let Some(fault) = faults.next() else {
                lab.change(*change);
                lab.settle(&format!("{change:?}, no fault"));
                continue;
            };
            any = true;
            tried += 1;
            met += usize::from(one(&mut lab, *change, &fault));
        }
        if !any {
            return (tried, met);
        }
    }
}

/// One change with one fault; whether the fault happened.
fn one(lab: &mut Lab, change: Change, fault: &Fault) -> bool {
    let when = format!("{change:?}, {fault}");
    let before = lab.agent.log().len();
    let tracer = Strace::attach(&lab.site.node, lab.agent.pid(), fault.call, Some(fault));
    lab.change(change);
    if fault.lasting {
        let over = Instant::now() + LASTS;
        while Instant::now() < over {
            lab.look(&when);
        }
    } else {
        lab.settle(&when);
    }
    let trace = tracer.detach();
    let injected: Vec<&str> = trace.lines().filter(|line| line.contains("(INJECTED)")).collect();
    let met = !injected.is_empty();
    lab.settle(&when);
    let log = lab.agent.log();
    let said = log.get(before..).unwrap_or_default();
    let loud = |line: &str| line.contains("WARN") || line.contains("ERROR");
    let told = said
        .lines()
        .any(|line| loud(line) && line.contains(&fault.text()));
    // A short shortage of memory is waited for. To EPERM, aya answers with a higher limit of locked memory and asks again.
    let silent = !fault.lasting && matches!(fault.error, "ENOMEM" | "EPERM");
    if met && !told && !silent {
        panic!("{when}: not told\nfaults: {injected:#?}\nagent since:\n{said}");
    }
    met
}

#[test]
fn each_bpf_call_of_each_change_fails_then_old_or_new_is_enforced_and_it_is_told() {
    every_call("bpf", |_| true);
}

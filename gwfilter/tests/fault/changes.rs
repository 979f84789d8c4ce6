//! A policy becomes tighter, then looser; a gateway and an address come and go: with a fault at each system call that it takes.

#![expect(
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests: their panic is the report, and figures go to the test's output"
)]

use std::time::{Duration, Instant};

use xtask::poll;

use crate::lab::{Change, Lab, SELDOM};
use crate::strace::{BPF, FLUSH, Fault, Kind, LIST, LOOK, OPEN, RECEIVE, RENAME, SEND, Strace, all, count};

/// Sites at a time: a test mostly waits.
const LANES: usize = 4;
/// So many calls of a change, unless all are asked for.
const SOME: usize = 8;
/// How long after the change a fault may be told: what is beside enforcement has time.
const TOLD: Duration = Duration::from_secs(5);
/// How long a lasting fault is there.
const LASTS: Duration = Duration::from_millis(1500);

/// Every fault of a call at a change; or, unless all are asked for, some calls, evenly spread, with one error after the other.
fn faults(Kind { call, errors }: Kind, calls: usize) -> Vec<Fault> {
    let step = if all() { 1 } else { calls.div_ceil(SOME) };
    let mut faults = Vec::new();
    for (turn, nth) in (1..=calls).step_by(step.max(1)).enumerate() {
        for (number, error) in errors.iter().copied().enumerate() {
            for lasting in [false, true] {
                let chosen = number == turn % errors.len() && lasting == (turn % 2 == 1);
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
fn every_call(kind: Kind, looks: &'static str, of: fn(Change) -> bool) {
    let call = kind.call;
    let (tried, met) = std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..LANES)
            .map(|lane| scope.spawn(move || share(kind, looks, of, lane)))
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
fn share(kind: Kind, looks: &str, of: fn(Change) -> bool, lane: usize) -> (usize, usize) {
    let call = kind.call;
    let mut lab = Lab::looking(looks);
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
        lists.push((change, faults(kind, calls).into_iter().skip(lane).step_by(LANES)));
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
    // A short shortage of memory is waited for. To EPERM, aya answers with a higher limit of locked memory and asks again.
    let silent = !fault.lasting && matches!(fault.error, "ENOMEM" | "EPERM");
    // A look at a file is repeated in half a second, and says something only if it changes anything.
    let silent = silent
        || matches!(
            fault.call,
            "statx" | "openat" | "getdents64" | "recvfrom" | "sendto"
        );
    if !met || silent {
        return met;
    }
    let loud = |line: &str| line.contains("WARN") || line.contains("ERROR");
    let told = poll::until(TOLD, || {
        let log = lab.agent.log();
        // What is kept beside is told once, when it begins to fail.
        let (since, text) = match fault.call {
            "bpf" => (before, fault.text()),
            _ => (0, "os error".to_owned()),
        };
        let said = log.get(since..).unwrap_or_default().lines();
        said.into_iter()
            .any(|line| loud(line) && line.contains(&text))
            .then_some(())
    });
    if told.is_none() {
        panic!(
            "{when}: not told\nfaults: {injected:#?}\nagent:\n{}",
            lab.agent.tail()
        );
    }
    met
}

#[test]
fn each_bpf_call_of_each_change_fails_then_old_or_new_is_enforced_and_it_is_told() {
    every_call(BPF, SELDOM, |_| true);
}

#[test]
fn each_netlink_call_fails_then_old_or_new_is_enforced_and_later_changes_are_heard() {
    let networks = |change| matches!(change, Change::AddressAdded | Change::AddressRemoved);
    for kind in [RECEIVE, SEND] {
        every_call(kind, "2s", networks);
    }
}

#[test]
fn each_call_on_files_fails_then_old_or_new_is_enforced() {
    let files = |change| {
        matches!(
            change,
            Change::Tightened | Change::GatewayAdded | Change::GatewayRemoved
        )
    };
    for kind in [OPEN, LIST, LOOK] {
        every_call(kind, SELDOM, files);
    }
}

#[test]
fn what_is_kept_for_the_next_agent_cannot_be_written_then_enforced_all_the_same_and_told() {
    for kind in [FLUSH, RENAME] {
        every_call(kind, SELDOM, |_| true);
    }
}

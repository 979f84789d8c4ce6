//! Lease and pause in the kernel: the rows of `gwfilter_common::testing::control`, at every hook, with exact counters.

use gwfilter_common::abi;
use gwfilter_common::decide::Action;
use gwfilter_common::testing::{control, proxied};
use nix::time::{ClockId, clock_gettime};

use crate::Expected;
use crate::object::{Hook, Object, Scan};

#[expect(clippy::unwrap_used, reason = "Linux has this clock")]
fn ns(clock: ClockId) -> u64 {
    let now = clock_gettime(clock).unwrap();
    u64::try_from(std::time::Duration::from(now).as_nanos()).unwrap()
}

fn monotonic_ns() -> u64 {
    ns(ClockId::CLOCK_MONOTONIC)
}

/// As of the last tick, which is what programs go by where the kernel tells them.
fn tick_ns() -> u64 {
    ns(ClockId::CLOCK_MONOTONIC_COARSE)
}

#[test]
fn each_state_of_lease_and_pause_then_the_action_and_counters_of_its_row() {
    let mut object = Object::load(abi::PACKET_LOG_OFF, 0).unwrap();
    object.fill(&control::image()).unwrap();
    for row in control::ROWS {
        object.control((row.words)(tick_ns())).unwrap();
        for hook in Hook::all() {
            for (step, pod) in control::steps() {
                let mut expected = Expected::default();
                let want = control::under(&row, step.want, pod);
                for _ in 0..2 {
                    let got = object.run(hook, &step.frame).unwrap();
                    assert_eq!(got, want.action, "{hook:?}: {}: {}", row.name, step.name);
                    expected.add(want);
                }
                let what = format!("{hook:?}: {}: {}", row.name, step.name);
                expected.assert_counted(&mut object, Scan::Cases, &what);
            }
        }
    }
}

#[test]
fn each_state_behind_the_proxy_protocol_then_the_action_and_counters_of_its_row() {
    for pod in [false, true] {
        let mut image = proxied::image(0);
        if pod {
            proxied::at_pods(&mut image);
        }
        let mut object = Object::load(abi::PACKET_LOG_OFF, 0).unwrap();
        object.fill(&image).unwrap();
        for row in control::ROWS {
            object.control((row.words)(tick_ns())).unwrap();
            for hook in [Hook::Tc, Hook::TcProxy] {
                for step in control::header_steps() {
                    let mut expected = Expected::default();
                    let want = control::under(&row, step.want, pod);
                    let what = format!("{hook:?}: {}: {} (pod: {pod})", row.name, step.name);
                    assert_eq!(object.run(hook, &step.frame).unwrap(), want.action, "{what}");
                    expected.add(want);
                    expected.assert_counted(&mut object, Scan::Cases, &what);
                }
            }
        }
    }
}

#[test]
fn a_lease_that_runs_out_then_the_kernel_passes_by_its_own_clock() {
    let mut object = Object::load(abi::PACKET_LOG_OFF, 0).unwrap();
    object.fill(&control::image()).unwrap();
    let (denied, _) = control::steps().remove(0);
    for hook in Hook::all() {
        let ends = monotonic_ns() + 300_000_000;
        object.control([ends, abi::FOREVER, 0]).unwrap();
        let mut drops = 0;
        loop {
            let before = tick_ns();
            let action = object.run(hook, &denied.frame).unwrap();
            let after = monotonic_ns();
            match action {
                Action::Drop => {
                    assert!(before < ends, "{hook:?}: dropped after the lease");
                    drops += 1;
                }
                Action::Pass | Action::Look => {
                    assert!(after >= ends, "{hook:?}: passed within the lease");
                    break;
                }
            }
        }
        assert!(drops > 0, "{hook:?}");
    }
}

//! The kernel programs under `BPF_PROG_TEST_RUN`: the same table of cases that the host reader is held against, then random
//! bad packets, for all three programs.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use gwfilter_common::abi::{self, Tally};
use gwfilter_common::decide::{Action, decide};
use gwfilter_common::packet::Packet;
use gwfilter_common::read::SliceReader;
use gwfilter_common::reason::Reason;
use gwfilter_common::testing::cases::{self, Want};
use gwfilter_common::testing::mutate::{Random, mutate};
use gwfilter_common::testing::{Image, root_table};
use xtask::kernel::lacks;

mod complete;
mod control;
mod ends;
mod flat;
mod log;
mod object;
mod proxied;
mod reset;
mod sampled;

use object::{Counters, Hook, Object, Scan, root_map};

/// Frames of the differential run, for each program.
const RANDOM_FRAMES: usize = 30_000;

/// What the kernel should have counted.
#[derive(Default)]
struct Expected {
    listeners: Counters,
    rules: Counters,
}

impl Expected {
    fn add(&mut self, want: Want) {
        if !want.reason.is_counted() {
            return;
        }
        let add = |tally: &mut Tally| {
            match want.action {
                Action::Drop => tally.dropped += 1,
                Action::Pass | Action::Look => tally.passed += 1,
            }
            tally.would_drop += u64::from(want.would_drop);
        };
        add(self
            .listeners
            .entry((want.listener, u32::from(want.reason.code())))
            .or_default());
        if want.rule != 0 && (want.action == Action::Drop || want.would_drop) {
            add(self.rules.entry((want.rule, 0)).or_default());
        }
    }

    #[track_caller]
    #[expect(clippy::unwrap_used, reason = "a test's own steps")]
    fn assert_counted(&self, object: &mut Object, scan: Scan, what: &str) {
        assert_eq!(object.listener_counters(scan).unwrap(), self.listeners, "{what}");
        assert_eq!(object.rule_counters(scan).unwrap(), self.rules, "{what}");
        object.zero(scan).unwrap();
    }
}

/// Runs each case at each hook, and compares action and counters case by case.
#[track_caller]
#[expect(clippy::unwrap_used, reason = "a test's own steps")]
fn run_cases(mut object: Object, header_flags: u32, want: impl Fn(Want) -> Want) {
    object.fill(&cases::image(header_flags)).unwrap();
    let cases = cases::cases();
    for hook in Hook::all() {
        let (mut ran, mut expected) = (0, Expected::default());
        for case in cases.iter().filter(|c| hook.takes(&c.frame)) {
            let want = want(case.want);
            assert_eq!(
                object.run(hook, &case.frame).unwrap(),
                want.action,
                "{hook:?} {}",
                case.name
            );
            expected.add(want);
            ran += 1;
        }
        assert!(ran > 2500, "{hook:?} ran {ran} of {}", cases.len());
        expected.assert_counted(&mut object, Scan::Whole, hook.program());
    }
}

#[test]
fn each_case_then_the_action_and_counters_of_its_row() {
    run_cases(Object::load(abi::PACKET_LOG_OFF, 0).unwrap(), 0, |want| want);
}

#[test]
fn observe_in_the_header_then_would_drop_is_counted_and_nothing_drops() {
    let object = Object::load(abi::PACKET_LOG_OFF, 0).unwrap();
    run_cases(object, abi::HEADER_OBSERVE, Want::observed);
}

#[test]
fn one_case_at_a_time_then_exactly_its_counters_move() {
    let mut object = Object::load(abi::PACKET_LOG_OFF, 0).unwrap();
    object.fill(&cases::image(0)).unwrap();
    // One case for each outcome.
    let mut seen = BTreeMap::new();
    for case in cases::cases().into_iter().filter(|c| Hook::Tc.takes(&c.frame)) {
        seen.entry((case.want.reason, case.want.listener, case.want.rule))
            .or_insert(case);
    }
    assert!(seen.len() > 20, "{}", seen.len());
    for hook in Hook::all() {
        for case in seen.values() {
            let mut expected = Expected::default();
            for _ in 0..3 {
                assert_eq!(
                    object.run(hook, &case.frame).unwrap(),
                    case.want.action,
                    "{}",
                    case.name
                );
                expected.add(case.want);
            }
            expected.assert_counted(&mut object, Scan::Cases, &case.name);
        }
    }
}

#[test]
fn random_bad_packets_then_the_kernel_says_what_the_host_says() {
    let image = cases::image(0);
    let mut object = Object::load(abi::PACKET_LOG_OFF, 0).unwrap();
    object.fill(&image).unwrap();
    let cases = cases::cases();
    for (seed, hook) in (1..).zip(Hook::all()) {
        let mut random = Random(seed);
        let (mut ran, mut drops, mut expected) = (0, 0, Expected::default());
        while ran < RANDOM_FRAMES {
            let mut frame = cases[random.below(cases.len())].frame.clone();
            mutate(&mut random, &mut frame);
            if !hook.takes(&frame) {
                continue;
            }
            let want = Want::from(decide(&SliceReader(&frame), &image, &()));
            assert_eq!(
                object.run(hook, &frame).unwrap(),
                want.action,
                "{hook:?} {want:?} {frame:02x?}"
            );
            drops += usize::from(want.action == Action::Drop);
            expected.add(want);
            ran += 1;
        }
        assert!(drops > 500 && drops < RANDOM_FRAMES / 2, "{drops}");
        expected.assert_counted(&mut object, Scan::Whole, hook.program());
    }
}

#[test]
fn header_beyond_the_linear_part_then_judged_all_the_same() {
    let image = cases::image(0);
    if lacks(abi::XDP_FRAGS_PROGRAM) {
        // Such frames never come to the other program: the kernel refuses it where they could.
        return;
    }
    let mut object = Object::load(abi::PACKET_LOG_OFF, 0).unwrap();
    object.fill(&image).unwrap();
    let ends = (cases::DENIED.parse().unwrap(), cases::GATEWAY.parse().unwrap());
    let denied = Packet {
        payload: &[0; 1500],
        ..Packet::syn(ends.0, ends.1)
    }
    .build()
    .unwrap();
    // `xdp_md.data_end` says how much is linear; the kernel takes 14 and more.
    let mut expected = Expected::default();
    for linear in [14_u32, 20, 33, 34, 37, 38, 47, 53, 54, 1000] {
        let mut ctx = [0; 24];
        ctx[4..8].copy_from_slice(&linear.to_ne_bytes());
        let action = object
            .run_with(Hook::XdpFrags, denied.bytes(), Some(&ctx), 1)
            .unwrap();
        assert_eq!(action, Action::Drop, "{linear} bytes linear");
        expected.add(decide(&SliceReader(denied.bytes()), &image, &()).into());
    }
    expected.assert_counted(&mut object, Scan::Cases, "multi-buffer");
    // A frame above one page is in several buffers in any case.
    let mut long = denied.bytes().to_vec();
    long.resize(9000, 0);
    let total = u16::try_from(long.len() - 14).unwrap();
    long[16..18].copy_from_slice(&total.to_be_bytes());
    assert_eq!(object.run(Hook::XdpFrags, &long).unwrap(), Action::Drop);
    let total = total + 1;
    long[16..18].copy_from_slice(&total.to_be_bytes());
    assert_eq!(object.run(Hook::XdpFrags, &long).unwrap(), Action::Pass);
}

#[test]
fn no_root_table_then_everything_passes_under_its_name() {
    let mut object = Object::load(abi::PACKET_LOG_OFF, 0).unwrap();
    let ends = (cases::DENIED.parse().unwrap(), cases::GATEWAY.parse().unwrap());
    let denied = Packet::syn(ends.0, ends.1).build().unwrap();
    for hook in Hook::all() {
        let mut expected = Expected::default();
        assert_eq!(object.run(hook, denied.bytes()).unwrap(), Action::Pass);
        expected.add(decide(&SliceReader(denied.bytes()), &Image::default(), &()).into());
        expected.assert_counted(&mut object, Scan::Whole, hook.program());
    }
}

#[test]
fn root_replaced_while_running_then_no_packet_sees_another_answer() {
    let mut object = Object::load(abi::PACKET_LOG_OFF, 0).unwrap();
    object.fill(&cases::image(0)).unwrap();
    let ends = (cases::DENIED.parse().unwrap(), cases::GATEWAY.parse().unwrap());
    let denied = Packet::syn(ends.0, ends.1).build().unwrap();
    let tables = |flags| root_map(&cases::image(flags).root.unwrap()).unwrap();
    let (mut full, observed) = (tables(0), tables(abi::HEADER_OBSERVE));
    let empty = root_map(&root_table(0, 9, &[])).unwrap();
    let mut root = object.take_root().unwrap();

    // Every swap shows at the very next packet.
    for _ in 0..20 {
        root.set(0, &empty, 0).unwrap();
        assert_eq!(object.run(Hook::Xdp, denied.bytes()).unwrap(), Action::Pass);
        root.set(0, &full, 0).unwrap();
        assert_eq!(object.run(Hook::Xdp, denied.bytes()).unwrap(), Action::Drop);
    }
    object.zero(Scan::Cases).unwrap();

    // Under load: a packet is dropped by the full table or would be by the other, never anything else.
    let (done, runs) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let (object, done, runs, frame) = (&object, &done, &runs, denied.bytes());
        let load = scope.spawn(move || {
            while !done.load(Ordering::Relaxed) {
                object.run_with(Hook::Xdp, frame, None, 1000).unwrap();
                runs.fetch_add(1000, Ordering::Relaxed);
            }
        });
        // A busy machine may run the other thread late: the first two tables stay until a whole run has met each.
        let met = || {
            let begun = runs.load(Ordering::Relaxed);
            while runs.load(Ordering::Relaxed) < begun + 2000 && !load.is_finished() {
                std::thread::yield_now();
            }
        };
        for swap in 0..50 {
            if swap == 1 {
                met();
            }
            root.set(0, &observed, 0).unwrap();
            if swap == 0 {
                met();
            }
            // No program reads the full table any more: what is written into it now must show nowhere.
            full.set(0, [0; 8], 0).unwrap();
            full = tables(0);
            root.set(0, &full, 0).unwrap();
        }
        done.store(true, Ordering::Relaxed);
        load.join().unwrap();
    });
    let runs = runs.into_inner();
    let counted = object.listener_counters(Scan::Whole).unwrap();
    let dropped = counted[&(1, u32::from(Reason::DeniedByRule.code()))].dropped;
    let would = counted[&(1, u32::from(Reason::Observed.code()))].would_drop;
    assert_eq!(dropped + would, runs, "{counted:?}");
    assert!(dropped > 0 && would > 0, "{counted:?}");
    assert_eq!(counted.len(), 2, "{counted:?}");
}

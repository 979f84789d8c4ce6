//! The packet log: its lines as aya-log hands them on, its switch and its budget.

use std::sync::{Arc, Mutex};

use aya_log::EbpfLogger;
use gwfilter_common::abi::{self, LogLimit};
use gwfilter_common::logline;
use gwfilter_common::packet::Packet;
use gwfilter_common::reason::Reason;
use gwfilter_common::testing::cases;

use crate::object::{Hook, Object};

/// Keeps what is logged.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl log::Log for Lines {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    #[expect(
        clippy::unwrap_used,
        reason = "a poisoned lock means that a test failed already"
    )]
    fn log(&self, record: &log::Record<'_>) {
        self.0
            .lock()
            .unwrap()
            .push(format!("{} {}", record.target(), record.args()));
    }

    fn flush(&self) {}
}

/// Loads with this switch and budget, sends these SYNs through a hook, and gives the lines.
#[expect(clippy::unwrap_used, reason = "a test's own steps")]
fn lines(hook: Hook, which: u32, rate: u32, frames: &[(&str, &str)]) -> (Vec<String>, Object) {
    let mut object = Object::load(which, rate).unwrap();
    object.fill(&cases::image(0)).unwrap();
    let kept = Lines::default();
    let mut logger = EbpfLogger::init_with_logger(&mut object.ebpf, kept.clone()).unwrap();
    for (source, destination) in frames {
        let frame = Packet::syn(source.parse().unwrap(), destination.parse().unwrap())
            .build()
            .unwrap();
        object.run(hook, frame.bytes()).unwrap();
    }
    logger.flush();
    let lines = kept.0.lock().unwrap().clone();
    (lines, object)
}

const FRAMES: [(&str, &str); 5] = [
    (cases::DENIED, cases::GATEWAY),
    (cases::ALLOWED, cases::GATEWAY),
    (cases::DENIED, "203.0.113.9:22"),
    (cases::DENIED, cases::OBSERVED),
    ("[2001:db8:51::20]:40001", cases::GATEWAY6),
];

fn expected(hook: u32) -> [String; 4] {
    let denied = Reason::DeniedByRule.code();
    let allowed = Reason::Allowed.code();
    let observed = Reason::Observed.code();
    // TEST_RUN's packets come in by the loopback device, index 1.
    [
        format!("verdict=1 reason={denied} listener=1 rule=1 proto=6 src=198.51.100.20 sport=40000 dst=203.0.113.9 dport=443"),
        format!("verdict=0 reason={allowed} listener=1 rule=2 proto=6 src=198.51.100.70 sport=40000 dst=203.0.113.9 dport=443"),
        format!("verdict=2 reason={observed} listener=3 rule=1 proto=6 src=198.51.100.20 sport=40000 dst=203.0.113.10 dport=443"),
        format!("verdict=1 reason={denied} listener=2 rule=1 proto=6 src=2001:db8:51::20 sport=40001 dst=2001:db8:113::9 dport=443"),
    ]
    .map(|rest| format!("gwf {}hook={hook} if=1 {rest} cfam=0 client=:: cport=0", logline::PREFIX))
}

#[test]
fn log_of_all_then_a_line_for_each_gateway_packet_in_the_documented_form() {
    for hook in Hook::all() {
        let code = if hook.is_tc() {
            logline::HOOK_TC
        } else {
            logline::HOOK_XDP
        };
        let (got, _) = lines(hook, abi::PACKET_LOG_ALL, 100, &FRAMES);
        assert_eq!(got, expected(code), "{hook:?}");
        for line in got {
            let names: Vec<&str> = line
                .strip_prefix("gwf ")
                .and_then(|l| l.strip_prefix(logline::PREFIX))
                .unwrap()
                .split(' ')
                .map(|field| field.split_once('=').unwrap().0)
                .collect();
            assert_eq!(names, logline::FIELDS);
        }
    }
}

#[test]
fn log_of_drops_then_only_what_is_or_would_be_dropped() {
    let [denied, _, observed, denied6] = expected(logline::HOOK_XDP);
    let (got, _) = lines(Hook::Xdp, abi::PACKET_LOG_DROPS, 100, &FRAMES);
    assert_eq!(got, [denied, observed, denied6]);
}

#[test]
fn log_off_then_no_line() {
    let (got, _) = lines(Hook::Xdp, abi::PACKET_LOG_OFF, 100, &FRAMES);
    assert!(got.is_empty(), "{got:?}");
}

#[test]
fn more_lines_than_the_budget_then_the_rest_is_counted() {
    let (got, mut object) = lines(Hook::Xdp, abi::PACKET_LOG_DROPS, 3, &[FRAMES[0]; 60]);
    let map = object.ebpf.map_mut(abi::LOGLIM_MAP).unwrap();
    let limits = aya::maps::PerCpuArray::<_, LogLimit>::try_from(map)
        .unwrap()
        .get(&0, 0)
        .unwrap();
    let suppressed: u64 = limits.iter().map(|l| l.suppressed).sum();
    assert_eq!(u64::try_from(got.len()).unwrap() + suppressed, 60);
    // The budget is a CPU's and a window's: the test may meet more than one of each, but not many.
    assert!((3..=24).contains(&got.len()), "{}", got.len());
}

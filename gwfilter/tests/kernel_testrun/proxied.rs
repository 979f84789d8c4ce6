//! The programs under the segments of `gwfilter_common::testing::proxied` and `streams`: the lists that the host's decision is held to, then
//! headers and changed frames by a seed, for which the host says what must come.
//!
//! TEST_RUN makes linear skbs only (before Linux 6.19); a header beyond the linear part is met by `ends`, where each payload is in a page of its
//! own when the sender's card gathers.

use std::collections::BTreeMap;

use gwfilter_common::abi;
use gwfilter_common::decide::{Action, Scope};
use gwfilter_common::read::SliceReader;
use gwfilter_common::reason::Reason;
use gwfilter_common::testing::cases::Want;
use gwfilter_common::testing::proxied::Step;
use gwfilter_common::testing::{Connections, matrix, proxied, streams};
use gwfilter_common::wire::l4;

use crate::Expected;
use crate::object::{Hook, Object, Scan};

#[test]
fn each_segment_to_a_proxy_tuple_then_the_action_and_counter_of_its_row() {
    let mut object = Object::load(abi::PACKET_LOG_OFF, 0).unwrap();
    object.fill(&proxied::image(0)).unwrap();
    for hook in [Hook::Tc, Hook::TcProxy] {
        for step in proxied::steps() {
            if step.name.contains("before its SYN") && hook == Hook::TcProxy {
                // The run before has left the SYNs.
                continue;
            }
            let action = object.run(hook, &step.frame).unwrap();
            assert_eq!(action, step.want.action, "{hook:?}: {}", step.name);
            let mut expected = Expected::default();
            expected.add(step.want);
            expected.assert_counted(&mut object, Scan::Cases, &format!("{hook:?}: {}", step.name));
        }
    }
}

#[test]
fn segment_to_a_proxy_tuple_at_xdp_then_untouched() {
    let mut object = Object::load(abi::PACKET_LOG_OFF, 0).unwrap();
    object.fill(&proxied::image(0)).unwrap();
    for step in proxied::steps() {
        for hook in Hook::all().into_iter().filter(|hook| !hook.is_tc()) {
            let action = object.run(hook, &step.frame).unwrap();
            assert_eq!(action, Action::Pass, "{hook:?}: {}", step.name);
        }
    }
    assert!(object.listener_counters(Scan::Whole).unwrap().is_empty());
}

/// Runs every step at both hooks of TC, and compares action by action, then all counters.
#[track_caller]
#[expect(clippy::unwrap_used, reason = "a test's own steps")]
pub(crate) fn run_steps(object: &mut Object, steps: &[Step], want: impl Fn(Want) -> Want) {
    assert!(steps.len() > 100, "{}", steps.len());
    for hook in [Hook::Tc, Hook::TcProxy] {
        let mut expected = Expected::default();
        for step in steps {
            let want = want(step.want);
            let action = object.run(hook, &step.frame).unwrap();
            assert_eq!(action, want.action, "{hook:?}: {}: {want:?}", step.name);
            expected.add(want);
        }
        expected.assert_counted(object, Scan::Cases, hook.program());
    }
}

#[test]
fn classes_settings_cuts_and_shapes_then_the_kernel_does_what_their_rows_say() {
    let mut object = Object::load(abi::PACKET_LOG_OFF, 0).unwrap();
    object.fill(&matrix::image(0, 0)).unwrap();
    for list in [
        streams::classes(),
        streams::settings(),
        streams::cuts(),
        streams::shapes(),
    ] {
        run_steps(&mut object, &list, |want| want);
    }
}

#[test]
fn observe_in_the_header_then_no_first_segment_is_dropped() {
    let mut object = Object::load(abi::PACKET_LOG_OFF, 0).unwrap();
    object.fill(&matrix::image(abi::HEADER_OBSERVE, 0)).unwrap();
    run_steps(&mut object, &streams::classes(), Want::observed);
}

#[test]
fn no_bpf_loop_then_version_1_is_left_to_the_gateway_and_version_2_judged() {
    let mut object = Object::load(abi::PACKET_LOG_OFF, 0).unwrap();
    object.fill(&matrix::image(0, 0)).unwrap();
    object.without_text().unwrap();
    let (mut text, mut refused) = (0, 0);
    for hook in [Hook::Tc, Hook::TcProxy] {
        let mut expected = Expected::default();
        for step in streams::classes() {
            let want = if step.name.starts_with("v1") && step.want.reason != Reason::NoHeader {
                text += 1;
                Want {
                    action: Action::Pass,
                    reason: Reason::HeaderUnknown,
                    rule: 0,
                    ..step.want
                }
            } else {
                step.want
            };
            refused += usize::from(want.action == Action::Drop);
            let action = object.run(hook, &step.frame).unwrap();
            assert_eq!(action, want.action, "{hook:?}: {}: {want:?}", step.name);
            expected.add(want);
        }
        expected.assert_counted(&mut object, Scan::Cases, hook.program());
    }
    assert!(text == 240 && refused > 100, "{text}, {refused}");
}

/// Milliseconds of the clock that the kernel notes SYNs by.
#[expect(clippy::unwrap_used, reason = "a clock that every kernel has")]
fn now_ms() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap();
    u64::try_from(now.tv_sec() * 1000 + now.tv_nsec() / 1_000_000).unwrap()
}

#[test]
fn connections_before_and_after_the_window_began_then_only_the_later_ones_are_refused() {
    let mut object = Object::load(abi::PACKET_LOG_OFF, 0).unwrap();
    object.fill(&matrix::image(0, 0)).unwrap();
    // Port by port: a connection that began before, and one after.
    let (client, dest) = ("1.2.3.4:40000", "203.0.113.30:443");
    for to in [matrix::DRAINING, matrix::NEW_ONLY] {
        let peer = matrix::PEERS[1];
        let header = proxied::header2(1, client, dest);
        let want = matrix::judged(
            to,
            peer.parse::<std::net::SocketAddr>().unwrap().ip(),
            client.parse().unwrap(),
            dest.parse().unwrap(),
        );
        assert_eq!(want.action, Action::Drop);
        let connection = |port| streams::Connection::new(peer, port, to);
        let syn = |object: &Object, port| {
            let frame = connection(port).segment(l4::SYN, 0, &[]);
            assert_eq!(object.run(Hook::Tc, &frame).unwrap(), Action::Pass);
        };
        syn(&object, 2000);
        let before = now_ms();
        while now_ms() == before {}
        object.fill(&matrix::image(0, now_ms())).unwrap();
        syn(&object, 2001);
        let first = |port| connection(port).segment(l4::ACK, 1, &header);
        assert_eq!(object.run(Hook::Tc, &first(2000)).unwrap(), Action::Pass, "{to}");
        assert_eq!(object.run(Hook::Tc, &first(2001)).unwrap(), Action::Drop, "{to}");
        let mut expected = Expected::default();
        expected.add(want);
        expected.add(Want {
            action: Action::Pass,
            reason: Reason::Draining,
            ..want
        });
        expected.assert_counted(&mut object, Scan::Cases, to);
    }
}

/// Runs frames at both hooks of TC, and compares with what the host says of each.
#[track_caller]
#[expect(clippy::unwrap_used, reason = "a test's own steps")]
fn as_the_host_says(frames: &[Vec<u8>]) -> BTreeMap<Reason, usize> {
    let image = matrix::image(0, 0);
    let mut object = Object::load(abi::PACKET_LOG_OFF, 0).unwrap();
    object.fill(&image).unwrap();
    let mut seen = BTreeMap::new();
    for (hook, scope) in [(Hook::Tc, Scope::All), (Hook::TcProxy, Scope::BesideXdp)] {
        // The kernel remembers the beginnings of streams from one hook to the next.
        let connections = Connections::default();
        object.forget().unwrap();
        let mut expected = Expected::default();
        for frame in frames.iter().filter(|frame| hook.takes(frame)) {
            let decision = streams::decide(&SliceReader(frame), &image, &connections, scope);
            let want = Want::from(decision);
            let action = object.run(hook, frame).unwrap();
            assert_eq!(action, want.action, "{hook:?} {want:?} {frame:02x?}");
            expected.add(want);
            *seen.entry(want.reason).or_insert(0) += 1;
        }
        expected.assert_counted(&mut object, Scan::Cases, hook.program());
    }
    seen
}

#[test]
fn generated_headers_then_the_kernel_reads_what_the_host_reads() {
    let frames: Vec<Vec<u8>> = streams::generated(2, 15_000)
        .into_iter()
        .flat_map(|(syn, first)| [syn, first])
        .collect();
    let seen = as_the_host_says(&frames);
    for reason in [
        Reason::Allowed,
        Reason::DeniedByRule,
        Reason::NoRuleAllows,
        Reason::HeaderInvalid,
        Reason::HeaderIncomplete,
        Reason::HeaderLocal,
        Reason::HeaderUnknown,
    ] {
        assert!(
            seen.get(&reason).is_some_and(|n| *n > 300),
            "{reason:?}: {seen:?}"
        );
    }
}

#[test]
fn changed_frames_then_the_kernel_says_what_the_host_says() {
    let seen = as_the_host_says(&streams::changed(3, 30_000));
    for reason in [
        Reason::Allowed,
        Reason::DeniedByRule,
        Reason::NoRuleAllows,
        Reason::NotFirstSegment,
        Reason::FirstSegmentUnknown,
        Reason::HeaderInvalid,
        Reason::Unparseable,
    ] {
        assert!(seen.get(&reason).is_some_and(|n| *n > 50), "{reason:?}: {seen:?}");
    }
}

//! The decision under first segments: written by hand (`testing::streams`), and by a seed.

use std::collections::BTreeMap;
use std::string::String;
use std::vec::Vec;

use super::{Action, Scope};
use crate::abi;
use crate::read::SliceReader;
use crate::reason::Reason;
use crate::testing::cases::Want;
use crate::testing::proxied::Step;
use crate::testing::proxy::{Reading, envoy};
use crate::testing::{Connections, Image, matrix, streams};
use crate::wire::{self, l4};

const TC: [Scope; 2] = [Scope::All, Scope::BesideXdp];

fn run(image: &Image, connections: &Connections, frame: &[u8], scope: Scope) -> Want {
    streams::decide(&SliceReader(frame), image, connections, scope).into()
}

/// Each step as its row says; how many came to each reason.
#[track_caller]
fn assert_rows(image: &Image, steps: &[Step], want: impl Fn(Want) -> Want) -> BTreeMap<Reason, usize> {
    let mut seen = BTreeMap::new();
    for scope in TC {
        let connections = Connections::default();
        let mut wrong: Vec<String> = Vec::new();
        for step in steps {
            let (got, want) = (run(image, &connections, &step.frame, scope), want(step.want));
            if got != want {
                wrong.push(std::format!("{scope:?}, {}: {got:?}, want {want:?}", step.name));
            }
            *seen.entry(got.reason).or_insert(0) += 1;
        }
        assert!(wrong.is_empty(), "{} wrong: {wrong:#?}", wrong.len());
    }
    seen
}

#[test]
fn every_combination_of_classes_then_what_the_matrix_says() {
    let seen = assert_rows(&matrix::image(0, 0), &streams::classes(), |want| want);
    for reason in [Reason::Allowed, Reason::DeniedByRule, Reason::NoRuleAllows] {
        assert!(seen.get(&reason).is_some_and(|n| *n > 80), "{seen:?}");
    }
}

#[test]
fn lists_of_peers_and_clients_and_broken_tables_then_as_they_say() {
    let seen = assert_rows(&matrix::image(0, 0), &streams::settings(), |want| want);
    for reason in [
        Reason::UntrustedProxy,
        Reason::NeverDropSource,
        Reason::Observed,
        Reason::NoPolicy,
        Reason::TableMissing,
        Reason::DeniedByRule,
    ] {
        assert!(seen.get(&reason).is_some_and(|n| *n > 4), "{reason:?}: {seen:?}");
    }
}

#[test]
fn observe_in_the_header_then_nothing_is_dropped() {
    let steps = streams::classes();
    let seen = assert_rows(&matrix::image(abi::HEADER_OBSERVE, 0), &steps, Want::observed);
    assert!(seen.get(&Reason::Observed).is_some_and(|n| *n > 80), "{seen:?}");
}

#[test]
fn header_cut_at_every_byte_then_judged_only_if_whole() {
    let seen = assert_rows(&matrix::image(0, 0), &streams::cuts(), |want| want);
    assert!(
        seen.get(&Reason::HeaderIncomplete).is_some_and(|n| *n > 100),
        "{seen:?}"
    );
}

#[test]
fn packets_of_every_shape_then_the_header_is_found() {
    let seen = assert_rows(&matrix::image(0, 0), &streams::shapes(), |want| want);
    assert!(
        seen.get(&Reason::DeniedByRule).is_some_and(|n| *n > 300),
        "{seen:?}"
    );
}

#[test]
fn connection_before_and_after_the_window_began_then_only_the_later_one_is_refused() {
    const SINCE_MS: u64 = 5000;
    let steps = streams::classes();
    let image = matrix::image(0, SINCE_MS);
    for to in [matrix::DRAINING, matrix::NEW_ONLY] {
        for (now_ns, drained) in [(0, true), (4_999_999_999, true), (5_000_000_000, false)] {
            let mut refused = 0;
            for step in steps.chunks_exact(2) {
                // By the peers of IPv4: the destinations are.
                let [syn, first] = [0, 1].map(|i| redirected(&step[i].frame, to));
                let (Some(syn), Some(first)) = (syn, first) else {
                    continue;
                };
                let mut connections = Connections::default();
                connections.now_ns = now_ns;
                run(&image, &connections, &syn, Scope::All);
                // What counts is when the SYN was seen.
                connections.now_ns = u64::MAX;
                let got = run(&image, &connections, &first, Scope::All);
                let want = step[1].want;
                match (want.action, drained) {
                    (Action::Drop, true) => {
                        assert_eq!((got.action, got.reason), (Action::Pass, Reason::Draining))
                    }
                    _ => assert_eq!((got.action, got.reason), (want.action, want.reason)),
                }
                assert_eq!(got.rule, want.rule);
                refused += usize::from(want.action == Action::Drop);
            }
            assert!(refused > 50, "{refused}");
        }
    }
}

/// The frame to another destination of IPv4, the checksums left as they were.
fn redirected(frame: &[u8], to: &str) -> Option<Vec<u8>> {
    let mut frame = frame.to_vec();
    let std::net::SocketAddr::V4(to) = to.parse().ok()? else {
        return None;
    };
    (frame[12..14] == [0x08, 0x00]).then(|| {
        frame[30..34].copy_from_slice(&to.ip().octets());
        frame
    })
}

/// What is in a frame: where the payload begins.
fn payload(frame: &[u8]) -> &[u8] {
    let reader = SliceReader(frame);
    let wire::Located::Transport(at) = wire::locate(&reader) else {
        panic!("{frame:02x?}")
    };
    let tcp = l4::tcp(&reader, at.l4, at.end).unwrap();
    &frame[tcp.payload as usize..at.end as usize]
}

#[test]
fn generated_headers_then_dropped_only_where_envoy_reads_a_client_that_the_matrix_refuses() {
    let image = matrix::image(0, 0);
    let (mut drops, mut right, mut missed) = (0, 0, 0);
    for (syn, first) in streams::generated(1, 60_000) {
        let connections = Connections::default();
        run(&image, &connections, &syn, Scope::All);
        let got = run(&image, &connections, &first, Scope::All);
        let peer = wire::flow(&SliceReader(&first)).unwrap();
        let to = if peer.family == wire::Family::V4 {
            matrix::MATRIX
        } else {
            matrix::MATRIX6
        };
        let [a, b, c, d, ..] = peer.source;
        let peer = match peer.family {
            wire::Family::V4 => std::net::IpAddr::from([a, b, c, d]),
            wire::Family::V6 => std::net::IpAddr::from(peer.source),
        };
        let stream = payload(&first);
        let (reading, _) = envoy(stream);
        let want = match reading {
            Reading::Ends(source, destination) => Some(matrix::judged(to, peer, source, destination)),
            _ => None,
        };
        match (got.action, want) {
            (Action::Drop, Some(want)) => {
                assert_eq!(got, want, "{}", stream.escape_ascii());
                drops += 1;
            }
            // The connection is refused by Envoy itself, for its TLVs.
            (Action::Drop, None) => {
                assert_eq!(reading, Reading::Refused, "{}", stream.escape_ascii());
                assert!(stream.starts_with(b"\r\n"), "{}", stream.escape_ascii());
            }
            (_, Some(want)) if got == want => right += 1,
            // The parser says less than Envoy only of texts that hold a NUL byte.
            (_, Some(_)) => {
                assert_eq!(got.reason, Reason::HeaderInvalid, "{}", stream.escape_ascii());
                assert!(
                    stream.starts_with(b"PROXY") && stream.contains(&0),
                    "{}",
                    stream.escape_ascii()
                );
                missed += 1;
            }
            (_, None) => assert_eq!(got.rule, 0),
        }
    }
    assert!(
        drops > 8000 && right > 5000 && missed < 1000,
        "{drops} {right} {missed}"
    );
}

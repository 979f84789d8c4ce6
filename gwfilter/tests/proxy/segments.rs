//! The header cut, repeated and shuffled: never a wrong refusal, and how much is refused all the same.

#![expect(
    clippy::panic,
    clippy::print_stdout,
    reason = "a helper of tests: its panic is the report, and the share that is refused is a figure to print"
)]

use xtask::gateway::Serves;
use xtask::site::{CLIENT_V4, NODE_PORT, NODE_V4};

use crate::lab::{A, Lab, listeners, to};
use crate::raw::{self, Outcome, Stream};

/// What follows the header: the beginning of a TLS ClientHello.
const HELLO: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 PROXY TCP4 is part of the random bytes";

/// Envoy echoes, client a is denied and client b is not.
fn lab() -> Lab {
    let lab = Lab::serving(&listeners(&Serves::Echo, true), "DENY", "remoteIpBlocks", &A, &[]);
    raw::ready(&lab.site);
    lab
}

fn headers(client: &str) -> [(&'static str, Vec<u8>); 2] {
    [
        ("v1", raw::v1(client, 40_000, NODE_V4, 80)),
        ("v2", raw::v2(client, 40_000, NODE_V4, 80)),
    ]
}

/// Parts of a stream: where each begins and ends, in the order they are sent.
type Parts = Vec<(usize, usize)>;

/// Sends a stream in these parts; what came of it.
fn outcome(lab: &Lab, stream: &[u8], parts: &Parts) -> Outcome {
    let mut connection = Stream::open(&lab.site, to(NODE_V4, NODE_PORT));
    for (from, end) in parts {
        connection.send(*from, stream.get(*from..*end).unwrap_or_default());
    }
    connection.outcome(HELLO.len())
}

/// Sends both clients' streams in all these ways. Client b's always arrive; of client a's, how many were refused is printed and
/// must be at least `floor` (in percent).
#[track_caller]
fn never_wrong(lab: &Lab, what: &str, floor: usize, ways: impl Fn(usize, usize) -> Vec<Parts>) {
    let [allowed, denied] = [CLIENT_V4[1], CLIENT_V4[0]].map(headers);
    for ((version, allowed), (_, denied)) in allowed.into_iter().zip(denied) {
        let stream = [&allowed, HELLO].concat();
        let all = ways(allowed.len(), stream.len());
        for parts in &all {
            let came = outcome(lab, &stream, parts);
            assert_eq!(
                came,
                Outcome::Bytes(HELLO.to_vec()),
                "{version}, {what}, {parts:?}: client b is allowed"
            );
        }
        let stream = [&denied, HELLO].concat();
        let all = ways(denied.len(), stream.len());
        let mut refused = 0;
        for parts in &all {
            match outcome(lab, &stream, parts) {
                Outcome::Reset => refused += 1,
                // Left to the gateway, which refuses nothing here.
                Outcome::Bytes(bytes) => assert_eq!(bytes, HELLO),
                other => panic!("{version}, {what}, {parts:?}: {other:?}"),
            }
        }
        println!("{version}, {what}: {refused} of {} refused", all.len());
        assert!(
            refused * 100 >= floor * all.len(),
            "{version}, {what}: {refused} of {} refused",
            all.len()
        );
    }
}

#[test]
fn whole_with_or_without_what_follows_then_always_refused() {
    let lab = lab();
    never_wrong(&lab, "coalesced with a ClientHello", 100, |_, end| {
        vec![vec![(0, end)]]
    });
    never_wrong(&lab, "a segment of its own", 100, |header, end| {
        vec![vec![(0, header), (header, end)]]
    });
    never_wrong(&lab, "followed by a part of what follows", 100, |header, end| {
        (header + 1..end).map(|cut| vec![(0, cut), (cut, end)]).collect()
    });
}

#[test]
fn sent_again_or_in_another_order_then_never_wrong_and_refused_whole() {
    let lab = lab();
    never_wrong(&lab, "sent twice", 100, |header, end| {
        vec![vec![(0, header), (0, header), (header, end)]]
    });
    never_wrong(&lab, "sent again with more", 100, |header, end| {
        vec![vec![(0, header), (0, end)]]
    });
    never_wrong(&lab, "after what follows", 100, |header, end| {
        vec![vec![(header, end), (0, header)]]
    });
    never_wrong(&lab, "sent again whole after a part", 100, |header, end| {
        (1..header).map(|cut| vec![(0, cut), (0, end)]).collect()
    });
}

#[test]
fn cut_in_two_at_every_byte_then_never_wrong() {
    let lab = lab();
    never_wrong(&lab, "cut in two", 0, |header, end| {
        (1..header).map(|cut| vec![(0, cut), (cut, end)]).collect()
    });
    never_wrong(&lab, "cut in two, the second part first", 0, |header, end| {
        (1..header).map(|cut| vec![(cut, end), (0, cut)]).collect()
    });
}

#[test]
fn cut_in_three_at_every_two_bytes_then_never_wrong() {
    let lab = lab();
    never_wrong(&lab, "cut in three", 0, |header, end| {
        let cuts = (1..header).flat_map(|one| (one + 1..header).map(move |two| (one, two)));
        cuts.map(|(one, two)| vec![(0, one), (one, two), (two, end)])
            .collect()
    });
}

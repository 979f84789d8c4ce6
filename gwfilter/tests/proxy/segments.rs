//! The header cut, repeated and shuffled: never a wrong refusal, and how much is refused all the same.

#![expect(
    clippy::panic,
    clippy::print_stdout,
    reason = "a helper of tests: its panic is the report, and the share that is refused is a figure to print"
)]

use xtask::gateway::Serves;
use xtask::site::{CLIENT_V4, CLIENT_V6, NIC, NODE_PORT, NODE_V4, NODE_V6};

use crate::lab::{A, Lab, listeners, to};
use crate::raw::{self, Outcome, Stream};

/// What follows the header: the beginning of a TLS ClientHello.
const HELLO: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 PROXY TCP4 is part of the random bytes";
/// A TLV without meaning and a unique id.
const TLVS: &[u8] = b"\x04\0\x03abc\x05\0\x04\r\n\r\n";

/// Envoy echoes, client a is denied and client b is not.
fn lab() -> Lab {
    let lab = Lab::serving(&listeners(&Serves::Echo, true), "DENY", "remoteIpBlocks", &A, &[]);
    raw::ready(&lab.site);
    lab
}

/// Headers of a client: 0 is a, 1 is b.
fn headers(client: usize) -> Vec<(&'static str, Vec<u8>)> {
    let [v4, v6] = [CLIENT_V4, CLIENT_V6].map(|of| of.get(client).copied().unwrap_or_default());
    vec![
        ("v1", raw::v1(v4, 40_000, NODE_V4, 80)),
        ("v1, IPv6", raw::v1(v6, 40_000, NODE_V6, 80)),
        ("v2", raw::v2(v4, 40_000, NODE_V4, 80)),
        ("v2, IPv6", raw::v2(v6, 40_000, NODE_V6, 80)),
        ("v2 with TLVs", raw::v2_with(v4, 40_000, NODE_V4, 80, TLVS)),
    ]
}

/// How many of the denied client's streams are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Share {
    All,
    /// Left to the gateway, which refuses nothing here.
    None,
    /// It depends on what the card merges.
    Some,
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

/// Sends both clients' streams in all these ways. Client b's always arrive; of client a's, how many were refused is printed, and must be `share`.
#[track_caller]
fn never_wrong(lab: &Lab, what: &str, share: Share, ways: impl Fn(usize, usize) -> Vec<Parts>) {
    for ((version, allowed), (_, denied)) in headers(1).into_iter().zip(headers(0)) {
        let stream = [&allowed, HELLO].concat();
        for parts in &ways(allowed.len(), stream.len()) {
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
                Outcome::Bytes(bytes) => assert_eq!(bytes, HELLO),
                other => panic!("{version}, {what}, {parts:?}: {other:?}"),
            }
        }
        println!("{version}, {what}: {refused} of {} refused", all.len());
        let right = match share {
            Share::All => refused == all.len(),
            Share::None => refused == 0,
            Share::Some => true,
        };
        assert!(
            right,
            "{version}, {what}: {refused} of {} refused, wanted {share:?}",
            all.len()
        );
    }
}

/// Both cuts of a header in three: each pair of places.
fn pairs(header: usize) -> impl Iterator<Item = (usize, usize)> {
    (1..header).flat_map(move |one| (one + 1..header).map(move |two| (one, two)))
}

/// Fewer of them: each place once as the first cut and once as the second.
fn places(header: usize) -> impl Iterator<Item = (usize, usize)> {
    let first = (1..header - 1).map(move |one| (one, one + (header - one) / 2));
    let second = (2..header).map(|two| (two / 2, two));
    first.chain(second)
}

#[test]
fn whole_with_or_without_what_follows_then_always_refused() {
    let lab = lab();
    never_wrong(&lab, "coalesced with a ClientHello", Share::All, |_, end| {
        vec![vec![(0, end)]]
    });
    never_wrong(&lab, "a segment of its own", Share::All, |header, end| {
        vec![vec![(0, header), (header, end)]]
    });
    never_wrong(
        &lab,
        "followed by a part of what follows",
        Share::All,
        |header, end| (header + 1..end).map(|cut| vec![(0, cut), (cut, end)]).collect(),
    );
}

#[test]
fn sent_again_or_in_another_order_then_never_wrong_and_refused_whole() {
    let lab = lab();
    never_wrong(&lab, "sent twice", Share::All, |header, end| {
        vec![vec![(0, header), (0, header), (header, end)]]
    });
    never_wrong(&lab, "sent again with more", Share::All, |header, end| {
        vec![vec![(0, header), (0, end)]]
    });
    never_wrong(&lab, "after what follows", Share::All, |header, end| {
        vec![vec![(header, end), (0, header)]]
    });
    never_wrong(
        &lab,
        "sent again whole after a part",
        Share::All,
        |header, end| (1..header).map(|cut| vec![(0, cut), (0, end)]).collect(),
    );
}

#[test]
fn cut_in_two_at_every_byte_then_never_wrong() {
    let lab = lab();
    never_wrong(&lab, "cut in two", Share::None, |header, end| {
        (1..header).map(|cut| vec![(0, cut), (cut, end)]).collect()
    });
    never_wrong(
        &lab,
        "cut in two, the second part first",
        Share::None,
        |header, end| (1..header).map(|cut| vec![(cut, end), (0, cut)]).collect(),
    );
    never_wrong(
        &lab,
        "cut in two, each part sent twice",
        Share::None,
        |header, end| {
            let twice = |cut| vec![(0, cut), (0, cut), (cut, header), (cut, end)];
            (1..header).map(twice).collect()
        },
    );
}

#[test]
fn cut_in_three_at_every_pair_of_bytes_then_never_wrong() {
    let lab = lab();
    never_wrong(&lab, "cut in three", Share::None, |header, end| {
        pairs(header)
            .map(|(one, two)| vec![(0, one), (one, two), (two, end)])
            .collect()
    });
}

#[test]
fn cut_in_three_and_shuffled_or_sent_again_then_never_wrong() {
    let lab = lab();
    for order in [[0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        never_wrong(
            &lab,
            &format!("cut in three, in the order {order:?}"),
            Share::None,
            |header, end| {
                let shuffled = |(one, two)| {
                    let parts = [(0, one), (one, two), (two, end)];
                    order
                        .iter()
                        .filter_map(|i: &usize| parts.get(*i).copied())
                        .collect()
                };
                places(header).map(shuffled).collect()
            },
        );
    }
    never_wrong(
        &lab,
        "cut in three, the first two sent again as one",
        Share::None,
        |header, end| {
            let again = |(one, two)| vec![(0, one), (one, two), (0, two), (two, header), (two, end)];
            places(header).map(again).collect()
        },
    );
}

#[test]
fn cut_and_perhaps_merged_again_by_the_card_then_never_wrong() {
    let lab = lab();
    lab.site
        .node
        .run("ethtool", &["-K", NIC, "rx", "on", "gro", "on"])
        .expect("offloads");
    never_wrong(&lab, "cut in two, GRO on", Share::Some, |header, end| {
        (1..header).map(|cut| vec![(0, cut), (cut, end)]).collect()
    });
    never_wrong(&lab, "whole, GRO on", Share::All, |header, end| {
        vec![vec![(0, header), (header, end)], vec![(0, end)]]
    });
}

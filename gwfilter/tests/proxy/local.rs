//! Gateways whose client is the packet's source, with resets asked for: judged in TC, answered within a budget, and never by XDP.

#![expect(clippy::expect_used, reason = "helpers of tests: their panic is the report")]

use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use xtask::http::Answer;
use xtask::manifests::ingress_policy;
use xtask::poll;
use xtask::process::Process;
use xtask::site::{
    Client, NIC, NODE_PORT, NODE_V4, NODE_V6, POD_PORT, POD_V4, Site, VIP_PORT, VIP_V4, VIP_V6,
};

use crate::lab::{
    A, POLICY, SOON, count_to_pod, counted_to_pod, ip_counter, start, tcp_counter, tcp_extension, to,
};
use crate::raw::{self, ACK, FIN, Outcome, PUSH, RST, SENDER, SYN, Stream};

const WITHIN: Duration = Duration::from_secs(5);
/// How long nothing may come. A reset takes microseconds.
const QUIET: Duration = Duration::from_millis(500);
/// Resets a CPU sends in a window of 2^30 ns.
const BUDGET: u64 = 1000;

/// The raw sender is refused, with resets.
fn site(blocks: &[&str], flags: &[&str]) -> (Site, Process) {
    let site = Site::new().expect("a site; this test needs root");
    raw::ready(&site);
    site.write(POLICY, &ingress_policy("DENY", "ipBlocks", blocks))
        .expect("a policy");
    let agent = start(&site, &[&["--refuse", "reset"], flags].concat());
    (site, agent)
}

fn sender() -> String {
    SENDER.to_string()
}

#[test]
fn a_refused_client_then_told_at_once_at_every_address_by_tc_and_not_by_xdp() {
    let (site, mut agent) = site(&A, &[]);
    assert!(agent.log().contains("hook=\"xdp+tcx\""), "{}", agent.tail());
    for at in [
        to(VIP_V4, VIP_PORT),
        to(VIP_V6, VIP_PORT),
        to(NODE_V4, NODE_PORT),
        to(NODE_V6, NODE_PORT),
        to(POD_V4, POD_PORT),
    ] {
        let sent_again = || tcp_extension(&site.client_a, "TCPSynRetrans");
        let before = sent_again();
        assert_eq!(site.get(Client::A, at), Answer::Refused, "{at}");
        assert_eq!(sent_again(), before, "{at}: this was the answer to the first SYN");
        assert_eq!(site.get(Client::B, at), Answer::Status(200), "{at}");
    }
    agent
        .wait_log("a refusal by TC", SOON, |log| {
            (log.matches("hook: tc, gateway: istio-system/istio-ingressgateway, verdict: drop")
                .count()
                >= 5)
                .then_some(())
        })
        .expect("logged");
    assert!(!agent.log().contains("hook: xdp"), "{}", agent.tail());
    let statistics = site.node.run("ethtool", &["-S", NIC]).expect("statistics");
    for line in statistics
        .lines()
        .filter(|line| line.contains("xdp_tx") || line.contains("xdp_drops"))
    {
        assert!(
            line.trim().ends_with(": 0"),
            "XDP passes and never transmits: {line}"
        );
    }
    for namespace in [&site.client_a, &site.client_b, &site.pod] {
        assert_eq!(tcp_counter(namespace, "InCsumErrors"), 0);
    }
}

#[test]
fn segments_then_the_right_answer_or_none() {
    let (site, _agent) = site(&[&sender()], &[]);
    let at = to(NODE_V4, NODE_PORT);
    count_to_pod(&site);
    let stream = Stream::new(&site, at);
    stream.syn(b"");
    let answer = stream.answer(WITHIN).expect("an answer to a SYN");
    assert_eq!(
        (answer.flags, answer.seq, answer.ack),
        (RST | ACK, 0, stream.first())
    );
    // With data (TCP Fast Open), and with the bits of ECN.
    let stream = Stream::new(&site, at);
    stream.syn(b"GET");
    let answer = stream.answer(WITHIN).expect("an answer to a SYN with data");
    assert_eq!(
        (answer.flags, answer.seq, answer.ack),
        (RST | ACK, 0, stream.first().wrapping_add(3))
    );
    let stream = Stream::new(&site, at);
    stream.segment(stream.first().wrapping_sub(1), SYN | 0xc0, b"");
    let answer = stream.answer(WITHIN).expect("an answer to a SYN with ECN");
    assert_eq!((answer.flags, answer.ack), (RST | ACK, stream.first()));
    // The first piece of a SYN: no answer, and it does not arrive.
    let stream = Stream::new(&site, at);
    let pieces = ip_counter(&site.router, "ReasmReqds");
    stream.fragment();
    assert!(stream.answer(QUIET).is_none(), "a fragment");
    assert_eq!(
        ip_counter(&site.router, "ReasmReqds"),
        pieces,
        "nor a piece of an answer"
    );
    assert_eq!(counted_to_pod(&site), 0, "nothing goes on to the pod");
}

#[test]
fn an_open_connection_then_let_live_for_the_drain_window_and_then_reset() {
    let (site, agent) = site(&["192.0.2.99"], &["--drain", "3s"]);
    // Not the node's own address: what comes there may be an answer to the node (`maybe-reply`).
    let at = to(VIP_V4, VIP_PORT);
    let request = b"GET / HTTP/1.1\r\n\r\n";
    let mut sent = 0;
    let mut ask = |stream: &mut Stream| {
        stream.send(sent, request);
        sent += request.len();
        stream.outcome(1)
    };
    let mut stream = Stream::open(&site, at);
    let opened = Instant::now();
    assert!(matches!(ask(&mut stream), Outcome::Bytes(_)));
    site.write(POLICY, &ingress_policy("DENY", "ipBlocks", &[&sender()]))
        .expect("a policy");
    let refused = poll::until(SOON, || {
        let new = Stream::new(&site, at);
        new.syn(b"");
        let answer = new.answer(WITHIN)?;
        (answer.flags & RST != 0).then_some(())
    });
    assert!(refused.is_some(), "{}", agent.tail());
    if opened.elapsed() < Duration::from_secs(3) {
        assert!(matches!(ask(&mut stream), Outcome::Bytes(_)), "drained, not cut");
    }
    let cut = poll::until(SOON, || (ask(&mut stream) == Outcome::Reset).then_some(()));
    assert!(cut.is_some(), "{}", agent.tail());
    // Never an answer to a reset, nor for one with other bits.
    for flags in [RST, RST | ACK, RST | FIN | PUSH] {
        stream.segment(stream.first(), flags, b"");
        // The server may still repeat what was not confirmed.
        while let Some(segment) = stream.answer(QUIET) {
            assert_eq!(segment.flags & RST, 0, "an answer to {flags:#x}: {segment:?}");
        }
    }
}

#[test]
fn a_flood_then_no_more_answers_than_the_budget() {
    let (site, _agent) = site(&[&sender()], &[]);
    let at = to(NODE_V4, NODE_PORT);
    let mut answered = tcp_counter(&site.router, "InSegs");
    count_to_pod(&site);
    // On one CPU, and so is what the cable does: one budget.
    let (sent, took) = std::thread::scope(|scope| {
        scope
            .spawn(|| {
                let streams = [0; 4].map(|_| Stream::new(&site, at));
                let mut one = CpuSet::new();
                one.set(0).expect("a CPU");
                sched_setaffinity(Pid::from_raw(0), &one).expect("pinned");
                let began = Instant::now();
                let mut sent = 0_u64;
                while began.elapsed() < Duration::from_secs(2) {
                    for stream in &streams {
                        stream.syn(b"");
                        sent += 1;
                    }
                }
                (sent, began.elapsed())
            })
            .join()
            .expect("joined")
    });
    answered = tcp_counter(&site.router, "InSegs") - answered;
    let windows = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX) / (1 << 30) + 2;
    println!("{sent} SYNs in {took:?}: {answered} answers");
    assert!(sent > 2 * BUDGET * windows, "a flood: {sent} in {took:?}");
    assert!(answered >= BUDGET, "{answered}");
    assert!(answered <= BUDGET * windows, "{answered} answers in {took:?}");
    assert_eq!(counted_to_pod(&site), 0, "nothing goes on to the pod");
}

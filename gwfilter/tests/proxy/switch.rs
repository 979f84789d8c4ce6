//! The drain rule behind the PROXY protocol, and across a change of mode: what was let in before a change lives on for the window.

use std::time::Duration;

use nix::sys::signal::Signal;
use xtask::balancer::{Balancer, Check, Sends, Way};
use xtask::gateway::Serves;
use xtask::http::{Answer, Connection};
use xtask::manifests::{cluster, cluster_with_proxy_protocol, ingress_policy};
use xtask::poll;
use xtask::site::{CLIENT_V4, Client, NODE_PORT, NODE_V4, PEER_V4, PEER_V6, Site, VIP_PORT, VIP_V4, VIP_V6};

use crate::lab::{A, Lab, POLICY, SOON, listeners, start, to, ways};
use crate::raw::{self, Outcome, Stream};

const HELLO: &[u8] = b"hello";
/// Long enough for a few steps, also on a busy machine; shorter than the 15 s that Envoy waits for a header.
const DRAIN: [&str; 2] = ["--drain", "6s"];

/// A stream with the denied client's header, over a connection that is open.
fn denied(mut stream: Stream) -> Outcome {
    let header = raw::v2(CLIENT_V4[0], 40_000, NODE_V4, 80);
    stream.send(0, &[&header, HELLO].concat());
    stream.outcome(HELLO.len())
}

/// Waits for generations beyond those of before.
#[track_caller]
fn changed(lab: &Lab, before: usize, by: usize) {
    let done = poll::until(SOON * 2, || (lab.generations() >= before + by).then_some(()));
    assert!(done.is_some(), "no new generation; agent:\n{}", lab.agent.tail());
}

#[test]
fn a_policy_that_tightens_then_connections_opened_before_pass_within_the_window_and_not_after() {
    let mut lab = Lab::serving(
        &listeners(&Serves::Echo, true),
        "DENY",
        "remoteIpBlocks",
        &["192.0.2.99"],
        &DRAIN,
    );
    raw::ready(&lab.site);
    let at = to(NODE_V4, NODE_PORT);
    let (early, late) = (Stream::open(&lab.site, at), Stream::open(&lab.site, at));
    let before = lab.generations();
    lab.policy("DENY", "remoteIpBlocks", &A);
    assert_eq!(denied(early), Outcome::Bytes(HELLO.to_vec()), "drained");
    lab.logged("draining", 1);
    assert_eq!(
        denied(Stream::open(&lab.site, at)),
        Outcome::Reset,
        "opened after"
    );
    // The end of the window is a change of its own.
    changed(&lab, before, 2);
    assert_eq!(denied(late), Outcome::Reset, "the window is over");
}

#[test]
fn from_the_packets_source_to_the_header_then_open_connections_pass_and_new_ones_are_judged() {
    let site = Site::without_gateway().expect("a site");
    site.write("cluster.yaml", &cluster()).expect("objects");
    site.write(POLICY, &ingress_policy("DENY", "remoteIpBlocks", &A))
        .expect("a policy");
    let lab = Lab::on(site, &listeners(&Serves::Echo, true), &DRAIN);
    raw::ready(&lab.site);
    let at = to(NODE_V4, NODE_PORT);
    // The peer is what counts in local mode, and it is not denied.
    assert_eq!(
        denied(Stream::open(&lab.site, at)),
        Outcome::Bytes(HELLO.to_vec())
    );
    let (early, late) = (Stream::open(&lab.site, at), Stream::open(&lab.site, at));
    let before = lab.generations();
    lab.site
        .write("cluster.yaml", &cluster_with_proxy_protocol())
        .expect("objects");
    changed(&lab, before, 1);
    assert_eq!(denied(early), Outcome::Bytes(HELLO.to_vec()), "opened before");
    assert_eq!(
        denied(Stream::open(&lab.site, at)),
        Outcome::Reset,
        "opened after"
    );
    // Where it began nobody has seen: it is the gateway's for good.
    changed(&lab, before, 2);
    assert_eq!(
        denied(late),
        Outcome::Bytes(HELLO.to_vec()),
        "opened before, long ago"
    );
}

#[test]
fn from_the_header_to_the_packets_source_then_what_was_let_in_lives_on_for_the_window() {
    // In PROXY mode client a is refused and b is not; by the packet's source the balancer is.
    let blocks = [&A[..], &[PEER_V4, PEER_V6]].concat();
    let lab = Lab::with("DENY", "remoteIpBlocks", &blocks, &DRAIN);
    // Not the node's own addresses: what comes there may be an answer to the node (`maybe-reply`).
    let ways: Vec<Way> = ways(&[Sends::V1, Sends::V2], Check::Never)
        .into_iter()
        .map(|way| Way {
            to: to(if way.to.is_ipv4() { VIP_V4 } else { VIP_V6 }, VIP_PORT),
            ..way
        })
        .collect();
    let _balancer = Balancer::haproxy(&lab.site.router, &ways).expect("haproxy");
    let mut open: Vec<Connection> = ways
        .iter()
        .map(|way| {
            lab.cut_off(Client::A, way.at);
            Connection::open(&lab.site.client_b, None, way.at, Duration::from_secs(2)).expect("connected")
        })
        .collect();
    for connection in &mut open {
        assert_eq!(connection.get(), Answer::Status(200));
    }
    let before = lab.generations();
    lab.site.write("cluster.yaml", &cluster()).expect("objects");
    changed(&lab, before, 1);
    for connection in &mut open {
        assert_eq!(connection.get(), Answer::Status(200), "within the window");
    }
    for way in &ways {
        // haproxy takes the connection, and gets none to the gateway.
        assert_eq!(lab.site.get(Client::B, way.at), Answer::Timeout, "a new one");
    }
    changed(&lab, before, 2);
    for connection in &mut open {
        assert_eq!(connection.get(), Answer::Timeout, "the window is over");
    }
}

#[test]
fn an_agent_of_another_abi_takes_over_between_syn_and_header_then_judged_all_the_same() {
    // Without a window, which would spare the connection.
    let flags = ["--drain", "0s"];
    let serving = listeners(&Serves::Echo, true);
    let mut lab = Lab::serving(&serving, "DENY", "remoteIpBlocks", &A, &flags);
    raw::ready(&lab.site);
    let at = to(NODE_V4, NODE_PORT);
    let open = Stream::open(&lab.site, at);
    lab.agent.signal(Signal::SIGKILL).expect("sent");
    lab.agent.wait_exit(SOON).expect("ended");
    let script = "cd /sys/fs/bpf/gwfilter && mv v* v7777";
    lab.site.node.run("sh", &["-c", script]).expect("moved");
    lab.agent = start(&lab.site, &flags);
    assert_eq!(denied(open), Outcome::Reset, "{}", lab.agent.tail());
    let left = lab
        .site
        .node
        .run("ls", &["/sys/fs/bpf/gwfilter"])
        .expect("listed");
    assert!(!left.contains("v7777"), "{left}");
}

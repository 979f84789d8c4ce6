//! TCP Fast Open: the header in the SYN. A denied one is dropped and answered, and never becomes a reset for the gateway.

#![expect(clippy::expect_used, reason = "helpers of tests: their panic is the report")]

use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, SockaddrIn, SockaddrIn6, SockaddrLike, recv, sendto,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};
use xtask::gateway::Serves;
use xtask::manifests::{cluster_with_proxy_protocol, ingress_policy};
use xtask::netns::Namespace;
use xtask::site::{CLIENT_V4, CLIENT_V6, NODE_PORT, NODE_V4, NODE_V6, POD_PORT, POD_V4, Site};

use crate::lab::{A, Lab, POLICY, count_to_pod, counted_to_pod, listeners, tcp_counter, tcp_extension, to};
use crate::raw::{self, ACK, Outcome, RST, SYN, Stream};

const WITHIN: Duration = Duration::from_secs(5);
const HELLO: &[u8] = b"hello";
/// `MSG_FASTOPEN`.
const FAST_OPEN: MsgFlags = MsgFlags::from_bits_retain(0x2000_0000);

/// Client a is denied. `at_pod`: what `net.ipv4.tcp_fastopen` is where Envoy runs.
fn lab(serves: &Serves, at_pod: &str) -> Lab {
    let site = Site::without_gateway().expect("a site");
    site.pod.sysctl("net/ipv4/tcp_fastopen", at_pod).expect("set");
    site.write("cluster.yaml", &cluster_with_proxy_protocol())
        .expect("objects");
    site.write(POLICY, &ingress_policy("DENY", "remoteIpBlocks", &A))
        .expect("a policy");
    let lab = Lab::on(site, &listeners(serves, true), &[]);
    raw::ready(&lab.site);
    lab
}

fn headers(client: &str) -> [Vec<u8>; 2] {
    [
        raw::v1(client, 40_000, NODE_V4, 80),
        raw::v2(client, 40_000, NODE_V4, 80),
    ]
}

#[test]
fn a_denied_header_in_a_syn_then_answered_and_nothing_of_it_reaches_the_gateway() {
    let lab = lab(&Serves::Echo, "0");
    count_to_pod(&lab.site);
    // Kept: each sends a reset of its own when it goes.
    let mut streams = Vec::new();
    for at in [to(NODE_V4, NODE_PORT), to(POD_V4, POD_PORT)] {
        for data in headers(CLIENT_V4[0])
            .into_iter()
            .flat_map(|header| [header.clone(), [&header, HELLO].concat()])
        {
            let stream = Stream::new(&lab.site, at);
            let length = u32::try_from(data.len()).expect("short");
            // Sent twice: refused twice.
            for _ in 0..2 {
                stream.syn(&data);
                let answer = stream.answer(WITHIN).expect("an answer");
                assert_eq!(answer.flags & (RST | ACK | SYN), RST | ACK, "{at}: {answer:?}");
                assert_eq!(
                    (answer.seq, answer.ack),
                    (0, stream.first().wrapping_add(length)),
                    "all of it is answered"
                );
            }
            streams.push(stream);
        }
    }
    // To the pod's own address no connection tracking stands in between that would take a reset away.
    assert_eq!(
        counted_to_pod(&lab.site),
        0,
        "no segment, and no reset, goes on to the gateway"
    );
}

#[test]
fn an_allowed_header_in_a_syn_then_the_handshake_goes_on_and_the_stream_arrives() {
    let lab = lab(&Serves::Echo, "0");
    let at = to(NODE_V4, NODE_PORT);
    for header in headers(CLIENT_V4[1]) {
        let mut stream = Stream::new(&lab.site, at);
        stream.syn(&header);
        let answer = stream.answer(WITHIN).expect("an answer");
        // Without Fast Open at the gateway the data is not taken: it comes again behind the handshake.
        assert_eq!(answer.ack, stream.first());
        stream.accepted(&answer);
        stream.send(0, &[&header, HELLO].concat());
        assert_eq!(stream.outcome(HELLO.len()), Outcome::Bytes(HELLO.to_vec()));
    }
    for header in headers(CLIENT_V4[0]) {
        // A part of a denied header in the SYN is not judged; the whole one behind the handshake is.
        let mut stream = Stream::new(&lab.site, at);
        stream.syn(header.get(..20).unwrap_or_default());
        let answer = stream.answer(WITHIN).expect("an answer");
        stream.accepted(&answer);
        stream.send(0, &[&header, HELLO].concat());
        assert_eq!(stream.outcome(HELLO.len()), Outcome::Reset);
    }
}

#[test]
fn a_gateway_that_takes_data_from_syns_then_the_same_verdicts() {
    // Server, without a cookie, on every listener (Documentation/networking/ip-sysctl.rst).
    let lab = lab(&Serves::Echo, "1538");
    let at = to(NODE_V4, NODE_PORT);
    for header in headers(CLIENT_V4[1]) {
        let data = [&header, HELLO].concat();
        let mut stream = Stream::new(&lab.site, at);
        stream.syn(&data);
        let answer = stream.answer(WITHIN).expect("an answer");
        let length = u32::try_from(data.len()).expect("short");
        assert_eq!(
            answer.ack,
            stream.first().wrapping_add(length),
            "Envoy has it all"
        );
        stream.accepted(&answer);
        assert_eq!(stream.outcome(HELLO.len()), Outcome::Bytes(HELLO.to_vec()));
    }
    assert!(tcp_extension(&lab.site.pod, "TCPFastOpenPassive") > 0);
    let before = tcp_extension(&lab.site.pod, "TCPFastOpenPassive");
    for header in headers(CLIENT_V4[0]) {
        let stream = Stream::new(&lab.site, at);
        stream.syn(&[&header, HELLO].concat());
        let answer = stream.answer(WITHIN).expect("an answer");
        assert_eq!(answer.flags & (RST | ACK | SYN), RST | ACK, "{answer:?}");
    }
    // A header cut after the SYN is the gateway's: not the first bytes of the stream any more.
    for header in headers(CLIENT_V4[0]) {
        let (begins, rest) = header.split_at(20);
        let mut stream = Stream::new(&lab.site, at);
        stream.syn(begins);
        let answer = stream.answer(WITHIN).expect("an answer");
        assert_eq!(answer.ack, stream.first().wrapping_add(20));
        stream.accepted(&answer);
        stream.send(20, &[rest, HELLO].concat());
        assert_eq!(stream.outcome(HELLO.len()), Outcome::Bytes(HELLO.to_vec()));
    }
    assert_eq!(
        tcp_extension(&lab.site.pod, "TCPFastOpenPassive"),
        before + 2,
        "only what is not whole got through"
    );
}

/// What the kernel's own Fast Open makes of these bytes: the connection, with as many bytes read back as were sent behind the header.
fn send_in_syn(namespace: &Namespace, to: SocketAddr, bytes: &[u8], back: usize) -> Result<Vec<u8>, Errno> {
    let work = || {
        let (family, address): (_, Box<dyn SockaddrLike>) = match to {
            SocketAddr::V4(to) => (AddressFamily::Inet, Box::new(SockaddrIn::from(to))),
            SocketAddr::V6(to) => (AddressFamily::Inet6, Box::new(SockaddrIn6::from(to))),
        };
        let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::seconds(10))?;
        sendto(fd.as_raw_fd(), bytes, address.as_ref(), FAST_OPEN)?;
        let mut read = vec![0; back];
        let size = recv(fd.as_raw_fd(), &mut read, MsgFlags::MSG_WAITALL)?;
        read.truncate(size);
        Ok(read)
    };
    namespace.enter(work).expect("entered")
}

#[test]
fn a_kernel_that_sends_the_header_in_its_syn_then_the_denied_one_is_refused_at_once() {
    let lab = lab(&Serves::Echo, "1538");
    // Client, and without a cookie.
    lab.site.router.sysctl("net/ipv4/tcp_fastopen", "5").expect("set");
    for (at, node, [denied, allowed]) in [
        (to(NODE_V4, NODE_PORT), NODE_V4, CLIENT_V4),
        (to(NODE_V6, NODE_PORT), NODE_V6, CLIENT_V6),
    ] {
        for header in [raw::v1, raw::v2] {
            let stream = |client| [&header(client, 40_000, node, 80), HELLO].concat();
            let before = tcp_extension(&lab.site.pod, "TCPFastOpenPassive");
            let got = send_in_syn(&lab.site.router, at, &stream(allowed), HELLO.len());
            assert_eq!(got, Ok(HELLO.to_vec()), "{at}");
            let after = tcp_extension(&lab.site.pod, "TCPFastOpenPassive");
            assert_eq!(after, before + 1, "{at}: it came in the SYN");
            let sent_again = || tcp_extension(&lab.site.router, "TCPSynRetrans");
            let before = sent_again();
            let got = send_in_syn(&lab.site.router, at, &stream(denied), HELLO.len());
            assert_eq!(got, Err(Errno::ECONNREFUSED), "{at}");
            assert_eq!(sent_again(), before, "{at}: this was the answer to the first SYN");
            let last = tcp_extension(&lab.site.pod, "TCPFastOpenPassive");
            assert_eq!(last, after, "{at}: nothing of it arrived");
        }
    }
    for namespace in [&lab.site.pod, &lab.site.router] {
        assert_eq!(tcp_counter(namespace, "InCsumErrors"), 0, "{}", namespace.label());
    }
}

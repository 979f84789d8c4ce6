//! Refusals at both ends of real connections, in each state that an skb's checksum can have (`include/linux/skbuff.h`), for what the field of
//! a reset must hold depends on it:
//!
//! - `CHECKSUM_NONE`: all offloads off, the sum is on the wire.
//! - `CHECKSUM_PARTIAL`: still to be computed, as between two ends of a veth pair with offloads, and of what GRO has merged.
//! - `CHECKSUM_COMPLETE`: a sum over the whole packet. A veth card gives none, but the kernel's own does: what comes out of a VXLAN tunnel whose
//!   outer UDP checksum was verified in software. A program before ours (`complete`) drops what is in another state, so a test that
//!   connects has met this one.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context as _, Result};
use aya::programs::tc::{TcAttachOptions, TcAttachType};
use aya::programs::{LinkOrder, SchedClassifier};
use gwfilter_common::abi;
use gwfilter_common::reason::Reason;
use gwfilter_common::testing::proxied;
use xtask::netns::{Namespace, veth};

use crate::complete;
use crate::object::{Object, Scan};
use crate::reset::{CLIENT, GATEWAY4, GATEWAY6, LOCAL4, LOCAL6, OTHER, addr, image};

/// Between the two ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cable {
    Veth,
    /// A VXLAN tunnel over the veth pair, checksums verified in software.
    Tunnel,
}

/// A gateway's node and its balancer, and the programs between them.
struct Ends {
    /// One for each address, as long as the ends: a process that another test starts holds all sockets until it runs its program, and a
    /// listener that lives on keeps its address.
    listeners: BTreeMap<&'static str, TcpListener>,
    node: Namespace,
    peer: Namespace,
    object: Object,
    /// Keeps what is in another state than `CHECKSUM_COMPLETE` from our program.
    _guard: Option<OwnedFd>,
}

impl Ends {
    /// `peer_offloads`, `node_offloads`: words for `ethtool -K`.
    fn new(cable: Cable, peer_offloads: &[&str], node_offloads: &[&str]) -> Result<Self> {
        let mut object = Object::load(abi::PACKET_LOG_OFF, 0)?;
        object.fill(&image())?;
        let (node, peer) = (Namespace::new("node")?, Namespace::new("peer")?);
        veth((&node, "eth0"), (&peer, "eth0"))?;
        let device = match cable {
            Cable::Veth => "eth0",
            Cable::Tunnel => {
                tunnel(&node, "10.9.0.1", "10.9.0.2")?;
                tunnel(&peer, "10.9.0.2", "10.9.0.1")?;
                "vx0"
            }
        };
        for (namespace, words) in [(&peer, peer_offloads), (&node, node_offloads)] {
            namespace.run("ethtool", &[&["-K", device], words].concat())?;
        }
        node.address(device, "192.0.2.1/24")?;
        node.address(device, "2001:db8:77::1/64")?;
        node.address("lo", "203.0.113.20/32")?;
        node.address("lo", "2001:db8:113::20/128")?;
        peer.address(device, "192.0.2.77/24")?;
        peer.address(device, "2001:db8:77::77/64")?;
        peer.route("203.0.113.20/32", "192.0.2.1")?;
        peer.route("2001:db8:113::20/128", "2001:db8:77::1")?;
        // Connections are tracked, and what fits none does not get through.
        node.nft(
            "table inet tracked { chain in { type filter hook input priority 0; \
             ct state invalid drop; }; }",
        )?;
        let program: &mut SchedClassifier = object
            .ebpf
            .program_mut(abi::TC_PROGRAM)
            .context("a program")?
            .try_into()?;
        node.enter(|| {
            program.attach_with_options(
                device,
                TcAttachType::Ingress,
                TcAttachOptions::TcxOrder(LinkOrder::first()),
            )
        })??;
        let guard = match cable {
            Cable::Veth => None,
            Cable::Tunnel => Some(node.enter(|| complete::attach(device))??),
        };
        let mut listeners = BTreeMap::new();
        for to in [GATEWAY4, GATEWAY6, LOCAL4, LOCAL6] {
            listeners.insert(to, node.enter(|| TcpListener::bind(addr(to)))??);
        }
        Ok(Self {
            listeners,
            node,
            peer,
            object,
            _guard: guard,
        })
    }

    /// A connection from the peer, and the gateway's end of it.
    fn connect(&self, to: &str) -> Result<(TcpStream, TcpStream)> {
        let listener = self.listeners.get(to).context("a listener")?;
        let near = self.peer.enter(|| TcpStream::connect(addr(to)))??;
        let (far, _) = listener.accept()?;
        for stream in [&near, &far] {
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        }
        Ok((near, far))
    }

    /// Segments whose checksum was wrong, at either end.
    fn wrong_checksums(&self) -> Result<u64> {
        let mut all = 0;
        for namespace in [&self.node, &self.peer] {
            let text = namespace.enter(|| std::fs::read_to_string("/proc/thread-self/net/snmp"))??;
            let mut lines = text.lines().filter(|line| line.starts_with("Tcp:"));
            let (names, values) = (lines.next().context("names")?, lines.next().context("values")?);
            let column = names
                .split(' ')
                .position(|name| name == "InCsumErrors")
                .context("InCsumErrors")?;
            all += values.split(' ').nth(column).context("a value")?.parse::<u64>()?;
        }
        Ok(all)
    }
}

/// What reading ends in.
fn end(stream: &mut TcpStream) -> Result<usize, ErrorKind> {
    stream.read(&mut [0; 64]).map_err(|e| e.kind())
}

/// `vx0`, to the other end of the cable. What it receives is summed up once, by the kernel.
fn tunnel(namespace: &Namespace, own: &str, other: &str) -> Result<()> {
    namespace.address("eth0", &format!("{own}/24"))?;
    let id = ["id", "9", "dstport", "4789", "dev", "eth0", "udpcsum"];
    let ends = ["local", own, "remote", other];
    let add = ["link", "add", "vx0", "type", "vxlan"];
    namespace.ip(&[add.as_slice(), &id, &ends].concat())?;
    namespace.ip(&["link", "set", "vx0", "up"]).map(|_| ())
}

#[track_caller]
#[expect(clippy::unwrap_used, reason = "a test's own steps")]
fn both_ends_are_told(cable: Cable, peer_offloads: &[&str], node_offloads: &[&str]) {
    let mut ends = Ends::new(cable, peer_offloads, node_offloads).unwrap();
    let mut refused = BTreeMap::new();
    for (to, listener) in [(GATEWAY4, 1), (GATEWAY6, 2)] {
        for header in [
            proxied::header2(1, CLIENT, GATEWAY4),
            proxied::header1(CLIENT, GATEWAY4),
        ] {
            // The header alone, and with more than a segment's worth behind it.
            for more in [0, 9, 60_000] {
                let what = format!("{to}, {} bytes and {more}", header.len());
                let (mut near, mut far) = ends.connect(to).unwrap();
                let stream = [header.as_slice(), &vec![0x5a; more]].concat();
                // A reset may come before all is written.
                let _ = near.write(&stream);
                let told = Err(ErrorKind::ConnectionReset);
                assert_eq!(end(&mut far), told, "{what}: the gateway's end");
                assert_eq!(end(&mut near), told, "{what}: the peer's end");
                *refused.entry(listener).or_insert(0) += 1;
            }
        }
        // Who is let in notices nothing.
        let (mut near, mut far) = ends.connect(to).unwrap();
        let stream = [proxied::header2(1, OTHER, GATEWAY4), vec![0x5a; 30]].concat();
        near.write_all(&stream).unwrap();
        let mut got = vec![0; stream.len()];
        far.read_exact(&mut got).unwrap();
        assert_eq!(got, stream);
    }
    for (to, listener) in [(LOCAL4, 3), (LOCAL6, 4)] {
        let answer = ends.peer.enter(|| TcpStream::connect(addr(to))).unwrap();
        let answer = answer.map_err(|e| e.kind()).unwrap_err();
        assert_eq!(answer, ErrorKind::ConnectionRefused, "{to}");
        refused.insert(listener, 1);
    }
    // What is lost is sent again, and refused again: each was told by the first answer.
    let counted = ends.object.listener_counters(Scan::Cases).unwrap();
    let denied = u32::from(Reason::DeniedByRule.code());
    let counted: BTreeMap<u32, u64> = counted
        .into_iter()
        .filter(|((_, reason), _)| *reason == denied)
        .map(|((listener, _), tally)| (listener, tally.dropped))
        .collect();
    assert_eq!(counted, refused);
    assert_eq!(ends.wrong_checksums().unwrap(), 0);
}

const OFF: [&str; 12] = [
    "tx", "off", "rx", "off", "sg", "off", "tso", "off", "gso", "off", "gro", "off",
];

#[test]
fn refused_with_checksums_on_the_wire_then_both_ends_are_reset_at_once() {
    both_ends_are_told(Cable::Veth, &OFF, &OFF);
}

#[test]
fn refused_with_checksums_still_to_be_computed_then_both_ends_are_reset_at_once() {
    let gathers = ["tx", "on", "sg", "on", "tso", "on", "gso", "on"];
    both_ends_are_told(Cable::Veth, &gathers, &["rx", "on", "tx", "on"]);
    // And the way back is by a card that computes none: the kernel does, over what the field holds.
    both_ends_are_told(Cable::Veth, &gathers, &["rx", "on", "tx", "off"]);
}

#[test]
fn refused_among_segments_merged_on_receipt_then_both_ends_are_reset_at_once() {
    both_ends_are_told(Cable::Veth, &OFF, &["rx", "on", "gro", "on"]);
    both_ends_are_told(Cable::Veth, &["tx", "on", "sg", "on"], &["rx", "on", "gro", "on"]);
}

#[test]
fn refused_with_a_sum_over_the_whole_packet_then_both_ends_are_reset_at_once() {
    both_ends_are_told(Cable::Tunnel, &OFF, &OFF);
}

#[test]
fn no_sum_over_the_whole_packet_then_the_guard_lets_nothing_by() {
    let ends = Ends::new(Cable::Veth, &OFF, &OFF).unwrap();
    let connect = || {
        let patience = Duration::from_millis(300);
        let answer = ends
            .peer
            .enter(|| TcpStream::connect_timeout(&addr(GATEWAY4), patience));
        answer.unwrap().map(|_| ()).map_err(|e| e.kind())
    };
    assert_eq!(connect(), Ok(()));
    let guard = ends.node.enter(|| complete::attach("eth0")).unwrap().unwrap();
    assert_eq!(connect(), Err(ErrorKind::TimedOut));
    drop(guard);
    assert_eq!(connect(), Ok(()));
}

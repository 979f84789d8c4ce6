//! Beginnings of streams to the destinations of [`matrix`](super::matrix), in the order they are sent: read by the host tests and by the kernel
//! tests.

use core::net::{IpAddr, SocketAddr};
use std::format;
use std::string::String;
use std::vec::Vec;

use super::cases::{Want, pass};
use super::headers;
use super::matrix::{self, BROKEN, MATRIX, MATRIX6, NEVER, PEERS};
use super::mutate::{Random, mutate};
use super::proxied::{Step, header1, header2};
use super::tables::addr;
use crate::decide::{Action, Decision, Scope, Streams, Tables, decide_header, decide_in};
use crate::packet::{Extension, Packet, Transport};
use crate::read::PacketRead;
use crate::reason::Reason;
use crate::wire::l4;

const DATA: u8 = l4::ACK | 0x08;
const ISN: u32 = 0xffff_fff0;
/// Payload that surely fits a built frame.
const ROOM: usize = 1400;
/// Clients of classes 0, 1, 2 for each family.
const CLIENTS: [&str; 6] = [
    "200.0.0.1:40000",
    "1.2.3.4:40000",
    "70.0.0.1:40000",
    "[fd00::1]:40000",
    "[2001:db8:51::20]:40000",
    "[4000::1]:40000",
];
/// Header destinations of classes 0 and 1, for each family.
const DESTS: [[&str; 2]; 2] = [["203.0.113.30", "10.0.0.1"], ["[2001:db8:113::30]", "[1::1]"]];
const PORTS: [u16; 2] = [443, 0x8000];

/// What the hooks of TC answer.
#[must_use]
pub fn decide<R: PacketRead, T: Tables, S: Streams>(
    packet: &R,
    tables: &T,
    streams: &S,
    scope: Scope,
) -> Decision {
    let decision = decide_in(packet, tables, scope);
    match decision.action {
        Action::Look => decide_header(packet, tables, streams),
        Action::Pass | Action::Drop => decision,
    }
}

/// A connection whose segments take a shape: tags, options, extension headers.
#[derive(Clone, Copy, Debug)]
pub struct Connection<'a> {
    packet: Packet<'a>,
    tcp: &'a [u8],
}

impl<'a> Connection<'a> {
    /// A plain one from this port of the peer.
    #[must_use]
    pub fn new(peer: &str, port: u16, to: &str) -> Self {
        let source = SocketAddr::new(addr(peer).ip(), port);
        Self {
            packet: Packet::syn(source, addr(to)),
            tcp: &[],
        }
    }

    /// A segment `offset` bytes behind the SYN.
    #[must_use]
    #[expect(
        clippy::expect_used,
        reason = "a fixture that does not fit is a bug of the test"
    )]
    pub fn segment(&self, flags: u8, offset: u32, payload: &'a [u8]) -> Vec<u8> {
        let transport = Transport::Tcp {
            flags,
            options: self.tcp,
        };
        let packet = Packet {
            transport,
            payload,
            ..self.packet
        };
        let mut frame = packet.build().expect("fits").bytes().to_vec();
        let header = 20 + self.tcp.len().next_multiple_of(4) + payload.len();
        let at = frame.len() - header + 4;
        if let Some(field) = frame.get_mut(at..at + 4) {
            field.copy_from_slice(&ISN.wrapping_add(offset).to_be_bytes());
        }
        frame
    }

    fn peer(&self) -> IpAddr {
        self.packet.source.ip()
    }
}

/// A list that grows, and the ports that it takes.
struct List {
    steps: Vec<Step>,
    port: u16,
}

impl List {
    const fn new() -> Self {
        Self {
            steps: Vec::new(),
            port: 1023,
        }
    }

    fn port(&mut self) -> u16 {
        self.port = self.port.checked_add(1).unwrap_or(1024);
        self.port
    }

    fn put(&mut self, name: String, frame: Vec<u8>, want: Want) {
        self.steps.push(Step { name, frame, want });
    }

    /// A SYN and the first segment.
    fn begin(&mut self, name: &str, connection: &Connection<'_>, listener: u32, payload: &[u8], want: Want) {
        let syn = connection.segment(l4::SYN, 0, &[]);
        self.put(format!("{name}: SYN"), syn, pass(Reason::NoHeader, listener, 0));
        let connection = Connection {
            packet: Packet {
                payload,
                ..connection.packet
            },
            tcp: connection.tcp,
        };
        let first = connection.segment(DATA, 1, payload);
        self.put(format!("{name}: first segment"), first, want);
    }
}

/// The headers of both versions that name these ends.
fn both(source: &str, destination: &str) -> [(&'static str, Vec<u8>); 2] {
    [
        ("v1", header1(source, destination)),
        ("v2", header2(1, source, destination)),
    ]
}

/// Every combination of classes, by peers of both families, with headers of both versions and families.
#[must_use]
pub fn classes() -> Vec<Step> {
    let mut list = List::new();
    for peer in PEERS {
        let to = if addr(peer).is_ipv4() { MATRIX } else { MATRIX6 };
        for (index, client) in CLIENTS.into_iter().enumerate() {
            let dests = if index < 3 { DESTS[0] } else { DESTS[1] };
            for dest in dests {
                for port in PORTS {
                    let dest = format!("{dest}:{port}");
                    for (version, header) in both(client, &dest) {
                        let connection = Connection::new(peer, list.port(), to);
                        let want = matrix::judged(to, connection.peer(), addr(client), addr(&dest));
                        let name = format!("{version} by {peer}, {client} to {dest}");
                        list.begin(&name, &connection, matrix::listener(to), &header, want);
                    }
                }
            }
        }
    }
    list.steps
}

/// Destinations with lists of trusted peers, of clients that are never dropped, observed, without a matrix, with broken tables.
#[must_use]
pub fn settings() -> Vec<Step> {
    let mut list = List::new();
    let named = [
        matrix::TRUSTED,
        matrix::TRUSTED6,
        matrix::SPARED,
        matrix::OBSERVED,
        matrix::UNRULED,
    ];
    let clients = CLIENTS.into_iter().chain(NEVER);
    for client in clients {
        let dest = if addr(client).is_ipv4() {
            "10.0.0.1:443"
        } else {
            "[1::1]:443"
        };
        for to in named {
            for peer in PEERS.into_iter().chain(NEVER) {
                if addr(peer).is_ipv4() != addr(to).is_ipv4() {
                    continue;
                }
                for (version, header) in both(client, dest) {
                    let connection = Connection::new(peer, list.port(), to);
                    let want = matrix::judged(to, connection.peer(), addr(client), addr(dest));
                    let name = format!("{version} by {peer} to {to}, client {client}");
                    list.begin(&name, &connection, matrix::listener(to), &header, want);
                }
            }
        }
    }
    for to in BROKEN {
        for (version, header) in both("1.2.3.4:40000", "10.0.0.1:443") {
            let connection = Connection::new(PEERS[0], list.port(), to);
            let want = pass(Reason::TableMissing, matrix::listener(to), 0);
            list.begin(
                &format!("{version} to {to}"),
                &connection,
                matrix::listener(to),
                &header,
                want,
            );
        }
    }
    list.steps
}

/// A client and a destination that a rule of the matrix denies to this peer.
fn refused(to: &str, peer: &str) -> (String, String) {
    for client in ["200.0.0.1:40000", "1.2.3.4:40000", "70.0.0.1:40000"] {
        for port in PORTS {
            let dest = format!("203.0.113.30:{port}");
            let want = matrix::judged(to, addr(peer).ip(), addr(client), addr(&dest));
            if want.reason == Reason::DeniedByRule {
                return (client.into(), dest);
            }
        }
    }
    (String::new(), String::new())
}

/// Headers of refused clients cut at every byte, over two segments; the second one is no header, wherever the cut is.
#[must_use]
pub fn cuts() -> Vec<Step> {
    let mut list = List::new();
    let (peer, to, listener) = (PEERS[0], MATRIX, matrix::listener(MATRIX));
    let (client, dest) = refused(to, peer);
    for (version, header) in both(&client, &dest) {
        let want = matrix::judged(to, addr(peer).ip(), addr(&client), addr(&dest));
        let stream = [header.as_slice(), b"\x16\x03\x01data"].concat();
        for cut in 0..stream.len() {
            let (first, second) = stream.split_at(cut);
            let connection = Connection::new(peer, list.port(), to);
            let quiet = pass(Reason::NoHeader, listener, 0);
            let (first_is, rest_is) = match cut {
                // The whole of it follows, and is the first that has data.
                0 => (quiet, want),
                1..4 => (quiet, quiet),
                _ if cut < header.len() => (pass(Reason::HeaderIncomplete, listener, 0), quiet),
                _ => (want, quiet),
            };
            let name = format!("{version} cut at {cut}");
            list.begin(&name, &connection, listener, first, first_is);
            let offset = 1 + u32::try_from(cut).unwrap_or(0);
            let rest = Connection::new(peer, list.port, to).segment(DATA, offset, second);
            list.put(format!("{name}: the rest"), rest, rest_is);
        }
    }
    list.steps
}

/// Refused first segments in packets of every shape that the parsers follow.
#[must_use]
pub fn shapes() -> Vec<Step> {
    let tags: [&[u16]; 4] = [&[], &[0x8100], &[0x88a8], &[0x88a8, 0x8100]];
    let options: [&[u8]; 3] = [&[], &[1; 4], &[1; 40]];
    let tcp: [&[u8]; 3] = [&[], &[1; 12], &[1; 40]];
    let extensions: [&[Extension<'_>]; 4] = [
        &[],
        &[Extension::Options(60, &[])],
        &[
            Extension::Options(0, &[]),
            Extension::Routing {
                kind: 0,
                segments_left: 0,
            },
        ],
        &[Extension::Authentication(12), Extension::Options(60, &[1; 6])],
    ];
    let mut list = List::new();
    for (peer, to) in [(PEERS[0], MATRIX), (PEERS[3], MATRIX6)] {
        let (client, dest) = refused(to, peer);
        let want = matrix::judged(to, addr(peer).ip(), addr(&client), addr(&dest));
        let v4 = addr(peer).is_ipv4();
        for (version, header) in both(&client, &dest) {
            for tags in tags {
                for tcp in tcp {
                    for shape in 0..if v4 { options.len() } else { extensions.len() } {
                        let plain = Connection::new(peer, list.port(), to);
                        let packet = Packet {
                            tags,
                            options: options.get(shape).copied().filter(|_| v4).unwrap_or_default(),
                            extensions: extensions.get(shape).copied().filter(|_| !v4).unwrap_or_default(),
                            ..plain.packet
                        };
                        let connection = Connection { packet, tcp };
                        let name = format!("{version} by {peer}, {tags:x?}, {tcp:?}, shape {shape}");
                        list.begin(&name, &connection, matrix::listener(to), &header, want);
                        // Data on the SYN.
                        let port = list.port();
                        let mut packet = packet;
                        packet.source.set_port(port);
                        let connection = Connection { packet, tcp };
                        list.put(
                            format!("{name}: on a SYN"),
                            connection.segment(l4::SYN, 0, &header),
                            want,
                        );
                    }
                }
            }
        }
    }
    list.steps
}

/// Frames of `count` connections whose first segments are headers by a seed, and of each its SYN before.
#[must_use]
pub fn generated(seed: u64, count: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut random = Random(seed);
    let mut list = List::new();
    (0..count)
        .map(|_| {
            let mut header = headers::header(&mut random);
            header.truncate(ROOM);
            let peer = PEERS.get(random.below(PEERS.len())).copied().unwrap_or(PEERS[0]);
            let to = if addr(peer).is_ipv4() { MATRIX } else { MATRIX6 };
            let connection = Connection::new(peer, list.port(), to);
            let syn = connection.segment(l4::SYN, 0, &[]);
            let first = Connection {
                packet: Packet {
                    payload: &header,
                    ..connection.packet
                },
                tcp: &[],
            };
            (syn, first.segment(DATA, 1, &header))
        })
        .collect()
}

/// `count` frames of all lists, changed by a seed: bits, fields, lengths. SYNs among them, so that streams begin, and elsewhere.
#[must_use]
pub fn changed(seed: u64, count: usize) -> Vec<Vec<u8>> {
    let mut random = Random(seed);
    let all: Vec<Vec<u8>> = [classes(), settings(), cuts(), shapes()]
        .into_iter()
        .flatten()
        .map(|step| step.frame)
        .collect();
    let mut frames = Vec::with_capacity(count);
    while frames.len() < count {
        // A connection's segments follow each other: its SYN as it is, then something like its first segment.
        let at = random.below(all.len());
        for index in at..(at + 2).min(all.len()) {
            let mut frame = all.get(index).cloned().unwrap_or_default();
            if random.below(3) != 0 {
                mutate(&mut random, &mut frame);
            }
            frames.push(frame);
        }
    }
    frames
}

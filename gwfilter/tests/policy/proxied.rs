//! Gateways behind the PROXY protocol: the matrix of classes held equal to the reference evaluator, and its bounds.
//!
//! `GWFILTER_PROXY_CASES=N` sets how many (policy set, listener, header) triples are compared.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use gwfilter::desired::{Matrix, Outcome, Verdict};
use gwfilter::gateway::model::{ChainKind, ChainTls, ClientAddress};
use gwfilter::policy::evaluate::Header;
use gwfilter::policy::{CompiledListener, Policy, decode, evaluate_header};
use gwfilter::report::EnforcedAt;
use gwfilter_common::reason::Reason;
use ipnet::{Ipv4Net, Ipv6Net};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::world::{World, gateway, mesh, policy, receiver};

/// Seeds that failed once.
const REGRESSIONS: &[u64] = &[];

const PORTS: [u16; 7] = [80, 443, 8080, 8443, 0, 65_535, 31_400];

fn cases() -> u64 {
    let stated = std::env::var("GWFILTER_PROXY_CASES").ok();
    stated.and_then(|n| n.parse().ok()).unwrap_or(150_000)
}

/// The longest prefix, tried one after the other.
#[expect(clippy::indexing_slicing, reason = "three axes of addresses")]
fn class(matrix: &Matrix, axis: usize, address: IpAddr) -> u16 {
    let four = [&matrix.peers4, &matrix.clients4, &matrix.dests4];
    let six = [&matrix.peers6, &matrix.clients6, &matrix.dests6];
    let found = match address {
        IpAddr::V4(a) => {
            let covering = four[axis].iter().filter(|(net, _)| net.contains(&a));
            covering
                .max_by_key(|(net, _): &(&Ipv4Net, _)| net.prefix_len())
                .map(|(_, class)| *class)
        }
        IpAddr::V6(a) => {
            let covering = six[axis].iter().filter(|(net, _)| net.contains(&a));
            covering
                .max_by_key(|(net, _): &(&Ipv6Net, _)| net.prefix_len())
                .map(|(_, class)| *class)
        }
    };
    found.unwrap_or(0)
}

/// What the tables say of a header; `None` where the listener is left to the gateway.
fn look_up(tables: &CompiledListener, packet_source: IpAddr, header: &Header) -> Option<Outcome> {
    let pass = |reason| Outcome {
        verdict: Verdict::Pass,
        reason,
        rule: None,
    };
    if tables.left.is_some() {
        return None;
    }
    let matrix = match header.peer {
        Some(_) => tables.matrix.as_ref(),
        None => tables.matrix_without_peer.as_ref(),
    };
    let Some(matrix) = matrix else {
        return Some(pass(Reason::NoPolicy));
    };
    if tables.observe {
        return Some(pass(Reason::Allowed));
    }
    let cell = matrix.counts.cell(
        class(matrix, 0, packet_source),
        class(matrix, 1, header.client),
        class(matrix, 2, header.destination.ip()),
        matrix.ports.get(&header.destination.port()).copied().unwrap_or(0),
    );
    Some(
        matrix
            .verdicts
            .get(&cell)
            .cloned()
            .unwrap_or_else(|| pass(Reason::Allowed)),
    )
}

/// The world as one behind a proxy, with ports and header destinations in its rules as often as clients.
fn world(seed: u64) -> World {
    let mut world = World::random(seed);
    world.gateway.client_address = ClientAddress::ProxyHeader;
    world
}

struct Headers {
    rng: StdRng,
    addresses: Vec<IpAddr>,
}

impl Headers {
    fn of(world: &World, seed: u64) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed ^ 0x7072_6f78),
            addresses: world.sources(seed),
        }
    }

    #[expect(clippy::indexing_slicing, reason = "a world has sources")]
    fn address(&mut self, like: Option<IpAddr>) -> IpAddr {
        loop {
            let address = self.addresses[self.rng.random_range(0..self.addresses.len())];
            if like.is_none_or(|l| l.is_ipv4() == address.is_ipv4()) {
                return address;
            }
        }
    }

    #[expect(clippy::indexing_slicing, reason = "an index into a constant")]
    fn next(&mut self) -> (IpAddr, Header) {
        let source = self.address(None);
        let client = self.address(None);
        let destination = self.address(Some(client));
        let port = PORTS[self.rng.random_range(0..PORTS.len())];
        let header = Header {
            peer: self.rng.random_bool(0.6).then_some(source),
            client,
            destination: SocketAddr::new(destination, port),
        };
        (source, header)
    }
}

#[test]
fn the_matrix_equals_the_evaluator() {
    let (mut compared, mut drops, mut left) = (0_u64, 0_u64, 0_u64);
    for seed in REGRESSIONS.iter().copied().chain(0..) {
        if compared >= cases() {
            break;
        }
        let world = world(seed);
        let compiled = world.compile();
        let (policies, _) = decode(&world.policies);
        let mut headers = Headers::of(&world, seed);
        for (listener, tables) in world.gateway.listeners.iter().zip(&compiled.listeners) {
            for _ in 0..200 {
                let (source, header) = headers.next();
                let Some(fast) = look_up(tables, source, &header) else {
                    left += 1;
                    break;
                };
                let slow = evaluate_header(
                    &world.mesh,
                    &policies,
                    &world.gateway,
                    listener,
                    world.complete && world.gateway.probe_sources_known,
                    &header,
                );
                compared += 1;
                drops += u64::from(slow.verdict == Verdict::Drop);
                let nameless = fast.verdict == Verdict::Drop && fast.rule.is_none();
                let same = if nameless {
                    (fast.verdict, fast.reason) == (slow.verdict, slow.reason)
                } else {
                    fast == slow
                };
                assert!(
                    same,
                    "seed {seed}, {}, {header:?}: tables {fast:?}, evaluator {slow:?}\n{world:#?}",
                    listener.name
                );
            }
        }
    }
    println!("{compared} comparisons, {drops} drops, {left} listeners left to the gateway");
    assert!(
        drops * 10 > compared && drops * 10 < compared * 9,
        "{drops} of {compared}"
    );
    assert!(left * 1000 < compared, "{left}");
}

fn proxied(policies: Vec<Value>) -> World {
    let policies = policies.into_iter().enumerate();
    let policies = policies.map(|(n, spec)| policy("istio-system", &format!("p{n:04}"), spec));
    let mut gateway = gateway(vec![vec![receiver(ChainKind::Tcp, ChainTls::Plain)]]);
    gateway.client_address = ClientAddress::ProxyHeader;
    World {
        mesh: mesh(),
        policies: policies.collect(),
        gateway,
        complete: true,
    }
}

#[expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "constants of this file"
)]
fn ask(
    world: &World,
    policies: &[Arc<Policy>],
    source: &str,
    client: &str,
    destination: &str,
    known: bool,
) -> (Verdict, bool) {
    let source: IpAddr = source.parse().unwrap();
    let header = Header {
        peer: known.then_some(source),
        client: client.parse().unwrap(),
        destination: destination.parse().unwrap(),
    };
    let fast = look_up(&world.compile().listeners[0], source, &header).unwrap();
    let slow = evaluate_header(
        &world.mesh,
        policies,
        &world.gateway,
        &world.gateway.listeners[0],
        true,
        &header,
    );
    assert_eq!(fast.verdict, slow.verdict);
    (fast.verdict, fast.rule.is_some())
}

#[test]
fn each_field_reads_its_own_part_of_packet_and_header() {
    // (field, value, what matches, what does not); a part is (packet source, client, header destination).
    let with = |source: &'static str, client: &'static str, dest: &'static str| (source, client, dest);
    let other = with("192.0.2.1", "198.51.100.1", "203.0.113.1:80");
    let cases = [
        (
            json!({"from": [{"source": {"ipBlocks": ["10.0.0.1"]}}]}),
            with("10.0.0.1", other.1, other.2),
        ),
        (
            json!({"from": [{"source": {"remoteIpBlocks": ["10.0.0.1"]}}]}),
            with(other.0, "10.0.0.1", other.2),
        ),
        (
            json!({"when": [{"key": "source.ip", "values": ["10.0.0.1"]}]}),
            with("10.0.0.1", other.1, other.2),
        ),
        (
            json!({"when": [{"key": "remote.ip", "values": ["10.0.0.1"]}]}),
            with(other.0, "10.0.0.1", other.2),
        ),
        (
            json!({"when": [{"key": "destination.ip", "values": ["10.0.0.1"]}]}),
            with(other.0, other.1, "10.0.0.1:80"),
        ),
        (
            json!({"when": [{"key": "destination.port", "values": ["443"]}]}),
            with(other.0, other.1, "203.0.113.1:443"),
        ),
        (
            json!({"to": [{"operation": {"ports": ["443"]}}]}),
            with(other.0, other.1, "203.0.113.1:443"),
        ),
        (
            json!({"to": [{"operation": {"notPorts": ["80"]}}]}),
            with(other.0, other.1, "203.0.113.1:8080"),
        ),
    ];
    for (rule, hit) in cases {
        let world = proxied(vec![json!({"action": "DENY", "rules": [rule]})]);
        let (policies, _) = decode(&world.policies);
        let of_peer = hit.0 != other.0;
        let refused = |known: bool, (s, c, d): (&str, &str, &str)| {
            ask(&world, &policies, s, c, d, known) == (Verdict::Drop, true)
        };
        assert!(refused(true, hit), "{rule}");
        assert!(!refused(true, other), "{rule}");
        // Where the gateway's peer is not known, only what compares the peer is not either.
        assert_eq!(refused(false, hit), !of_peer, "{rule}");
        assert!(!refused(false, other), "{rule}");
    }
}

#[test]
fn an_unread_input_then_only_the_peer_counts() {
    for (field, counts) in [("ipBlocks", true), ("remoteIpBlocks", false)] {
        let rule = json!({"from": [{"source": {field: ["10.0.0.1"]}}]});
        let mut world = proxied(vec![json!({"action": "DENY", "rules": [rule]})]);
        world.mesh.unread = true;
        let (policies, _) = decode(&world.policies);
        let (verdict, _) = ask(&world, &policies, "10.0.0.1", "10.0.0.1", "203.0.113.1:80", true);
        assert_eq!(verdict == Verdict::Drop, counts, "{field}");
    }
}

fn deny(field: &str, n: u32) -> Value {
    let range = format!("10.{}.{}.0/24", n / 256, n % 256);
    json!({"action": "DENY", "rules": [{"from": [{"source": {field: [range]}}]}]})
}

#[test]
fn more_rules_than_classes_then_they_are_merged_and_the_refusals_stay() {
    let matrix = |count: u32| -> Arc<Matrix> {
        let world = proxied((0..count).map(|n| deny("remoteIpBlocks", n)).collect());
        world.compile().listeners[0].matrix.clone().unwrap()
    };
    let named = matrix(63);
    assert_eq!(named.counts.clients, 64);
    assert!(named.verdicts.values().all(|o| o.rule.is_some()));
    // One more: which rule refuses is not told apart any longer.
    let merged = matrix(64);
    assert_eq!(merged.counts.clients, 2);
    assert!(
        merged
            .verdicts
            .values()
            .all(|o| o.rule.is_none() && o.reason == Reason::DeniedByRule)
    );
    assert_eq!(matrix(2000).counts.cells(), 2);
}

#[test]
fn more_combinations_than_cells_then_the_listener_is_left_to_the_gateway_with_the_reason() {
    // Each rule refuses its own pair of peer and client.
    let pair = |n: u32| {
        let range = format!("10.0.{n}.0/24");
        json!({"action": "DENY", "rules": [{"from": [{"source": {"ipBlocks": [range], "remoteIpBlocks": [range]}}]}]})
    };
    let compiled = |count: u32| proxied((0..count).map(pair).collect()).compile();
    assert!(compiled(62).listeners[0].matrix.is_some());
    for count in [70, 300] {
        let compiled = compiled(count);
        let tables = &compiled.listeners[0];
        assert_eq!(
            (&tables.matrix, tables.left.as_ref().map(|w| w.code)),
            (&None, Some("too-many-classes"))
        );
        assert!(
            compiled
                .report
                .why
                .iter()
                .any(|why| why.starts_with("too-many-classes: "))
        );
        let rule = &compiled.report.policies[0].rules[0];
        assert_eq!(rule.enforced_at, EnforcedAt::Gateway);
        assert!(rule.whole_why().contains("too-many-classes"), "{:?}", rule.why);
    }
}

#[test]
fn rules_on_addresses_then_they_are_reported_as_enforced_at_the_node() {
    let allow = json!({"rules": [
        {"from": [{"source": {"remoteIpBlocks": ["10.0.0.0/8"], "ipBlocks": ["192.0.2.0/24"]}}],
         "to": [{"operation": {"ports": ["443"]}}]},
        {"from": [{"source": {"remoteIpBlocks": ["172.16.0.0/12"], "principals": ["a"]}}]},
    ]});
    let request = json!({"action": "DENY", "rules": [{"to": [{"operation": {"ports": ["443"]}}],
        "when": [{"key": "connection.sni", "values": ["x"]}]}]});
    let world = proxied(vec![allow, deny("remoteIpBlocks", 7), request]);
    let report = world.compile().report;
    assert!(report.enforced);
    assert_eq!(
        (report.client_address, report.why.len()),
        ("proxy-header", 0),
        "{:?}",
        report.why
    );
    let at = |policy: usize, rule: usize| report.policies[policy].rules[rule].enforced_at;
    assert_eq!(at(1, 0), EnforcedAt::Node, "{:?}", report.policies[1]);
    assert_eq!(at(2, 0), EnforcedAt::Node, "{:?}", report.policies[2]);
    assert_eq!(
        at(0, 1),
        EnforcedAt::Node,
        "no TLS, so no principal: {:?}",
        report.policies[0]
    );
}

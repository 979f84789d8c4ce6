//! What a verdict depends on, gathered for tests, and how to ask the compiled tables.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use gwfilter::desired::{Outcome, Verdict};
use gwfilter::gateway::model::{
    Chain, ChainKind, ChainTls, ClientAddress, Gateway, Listener, Mesh, Receiver, Tri, Workload,
};
use gwfilter::object::authorization_policy::AuthorizationPolicy;
use gwfilter::object::meta::Meta;
use gwfilter::policy::{Compiled, CompiledListener, compile, decode};
use gwfilter_common::reason::Reason;
use ipnet::IpNet;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;

/// Everything a verdict depends on, but for the source.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) mesh: Mesh,
    pub(crate) policies: Vec<AuthorizationPolicy>,
    pub(crate) gateway: Gateway,
    pub(crate) complete: bool,
}

impl World {
    /// Compiles it.
    pub(crate) fn compile(&self) -> Compiled {
        compile(
            &self.mesh,
            &decode(&self.policies).0,
            &self.gateway,
            self.complete,
        )
    }

    /// Both ends of every range that is written anywhere and their neighbours, an address within, the same bits in the other family, and the ends
    /// of both families.
    pub(crate) fn sources(&self, seed: u64) -> Vec<IpAddr> {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut texts = Vec::new();
        self.policies
            .iter()
            .for_each(|p| collect_texts(&written(p), &mut texts));
        let mut sources: Vec<IpAddr> = Vec::new();
        for net in texts.iter().filter_map(|t| as_net(t)) {
            match net {
                IpNet::V4(n) => {
                    let (low, high) = (n.network().to_bits(), n.broadcast().to_bits());
                    let inside = rng.random_range(low..=high);
                    for a in [low, low.wrapping_sub(1), high, high.wrapping_add(1), inside] {
                        sources.push(Ipv4Addr::from_bits(a).into());
                    }
                    sources.push(Ipv4Addr::from_bits(low).to_ipv6_mapped().into());
                }
                IpNet::V6(n) => {
                    let (low, high) = (n.network().to_bits(), n.broadcast().to_bits());
                    let inside = rng.random_range(low..=high);
                    for a in [low, low.wrapping_sub(1), high, high.wrapping_add(1), inside] {
                        sources.push(Ipv6Addr::from_bits(a).into());
                    }
                    sources.extend(n.network().to_ipv4_mapped().map(IpAddr::from));
                }
            }
        }
        sources.extend([
            IpAddr::from(Ipv4Addr::from_bits(0)),
            Ipv4Addr::from_bits(u32::MAX).into(),
            Ipv4Addr::from_bits(rng.random()).into(),
            Ipv6Addr::from_bits(0).into(),
            Ipv6Addr::from_bits(u128::MAX).into(),
            Ipv6Addr::from_bits(rng.random()).into(),
        ]);
        sources.sort();
        sources.dedup();
        sources
    }
}

/// What becomes of a source: what the tables say, or a pass where they are only observed.
pub(crate) fn look_up(listener: &CompiledListener, source: IpAddr) -> Outcome {
    let said = said(listener, source);
    if listener.observe && said.verdict == Verdict::Drop {
        return Outcome {
            verdict: Verdict::Pass,
            reason: Reason::Allowed,
            rule: None,
        };
    }
    said
}

/// What the tables say of a source: the entry that covers it, or a pass.
pub(crate) fn said(listener: &CompiledListener, source: IpAddr) -> Outcome {
    let pass = |reason| Outcome {
        verdict: Verdict::Pass,
        reason,
        rule: None,
    };
    let found = match source {
        IpAddr::V4(a) => listener
            .table4
            .as_ref()
            .map(|table| table.get(a.to_bits()).cloned()),
        IpAddr::V6(a) => listener
            .table6
            .as_ref()
            .map(|table| table.get(a.to_bits()).cloned()),
    };
    match found {
        None => pass(Reason::NoPolicy),
        Some(outcome) => outcome.unwrap_or_else(|| pass(Reason::Allowed)),
    }
}

/// A policy's spec as it was written.
pub(crate) fn written(policy: &AuthorizationPolicy) -> Value {
    // It is from JSON that was read.
    policy.spec.value().unwrap_or_default()
}

/// A policy from its parts.
pub(crate) fn policy(namespace: &str, name: &str, spec: Value) -> AuthorizationPolicy {
    let meta = Meta {
        name: name.to_owned(),
        namespace: namespace.to_owned(),
        ..Meta::default()
    };
    AuthorizationPolicy {
        meta,
        spec: spec.into(),
    }
}

/// A mesh of which everything is known.
pub(crate) fn mesh() -> Mesh {
    Mesh {
        root_namespace: Some("istio-system".to_owned()),
        discovery_selectors: false,
        istiod_revision: Some(String::new()),
        selector_based_gateway_policy: Tri::True,
        request_authentication: Tri::Unknown,
        unread: false,
    }
}

/// A gateway with one listener for each receiver list, one workload labelled `app: gw` in `istio-system`.
pub(crate) fn gateway(listeners: Vec<Vec<Receiver>>) -> Gateway {
    Gateway {
        namespace: "istio-system".to_owned(),
        name: "gw".to_owned(),
        client_address: ClientAddress::PacketSource,
        workloads: vec![Workload {
            namespace: "istio-system".to_owned(),
            labels: BTreeMap::from([("app".to_owned(), "gw".to_owned())]),
            labels_complete: true,
            revision: Some(String::new()),
        }],
        listeners: listeners
            .into_iter()
            .enumerate()
            .map(|(at, receivers)| Listener {
                name: format!("l{at}"),
                tuples: Vec::new(),
                receivers,
            })
            .collect(),
        rewritten: Vec::new(),
        never_drop: Vec::new(),
        trusted_proxies: None,
        probe_sources_known: true,
        not_enforced: None,
        observe: None,
        drain: gwfilter::object::drain::Drain::Unstated,
        remarks: Vec::new(),
    }
}

/// A receiver on port 8080 of the pod 10.244.0.1 / 2001:db8:a::1.
pub(crate) fn receiver(kind: ChainKind, tls: ChainTls) -> Receiver {
    Receiver {
        workload: 0,
        port: 8080,
        addresses: Some(vec![
            Ipv4Addr::new(10, 244, 0, 1).into(),
            Ipv6Addr::new(0x2001, 0xdb8, 0xa, 0, 0, 0, 0, 1).into(),
        ]),
        chains: vec![Chain { kind, tls }],
    }
}

fn as_net(text: &str) -> Option<IpNet> {
    text.parse::<IpNet>()
        .ok()
        .or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

fn collect_texts(value: &Value, texts: &mut Vec<String>) {
    match value {
        Value::String(text) => texts.push(text.clone()),
        Value::Array(items) => items.iter().for_each(|v| collect_texts(v, texts)),
        Value::Object(map) => map.values().for_each(|v| collect_texts(v, texts)),
        _ => {}
    }
}

//! What of Envoy's answer follows from the addresses alone: a three-valued reading of the very RBAC filters that Envoy runs.
//!
//! It tells which refusals a node *can* see, and at the same time holds the oracle's own understanding against Envoy: a
//! refusal or a passage that is certain here must be Envoy's too.

use std::net::IpAddr;

use serde_json::Value;

use crate::istio::rbac_filters;
use crate::set::{Chain, Placed, TcpServer, Topology};

/// True, false, or not known from addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tri {
    True,
    False,
    Unknown,
}

impl Tri {
    fn of(truth: bool) -> Self {
        if truth { Self::True } else { Self::False }
    }

    fn not(self) -> Self {
        match self {
            Self::True => Self::False,
            Self::False => Self::True,
            Self::Unknown => Self::Unknown,
        }
    }

    fn any(items: impl Iterator<Item = Self>) -> Self {
        items.fold(Self::False, |so_far, item| match (so_far, item) {
            (Self::True, _) | (_, Self::True) => Self::True,
            (Self::False, Self::False) => Self::False,
            _ => Self::Unknown,
        })
    }

    fn all(items: impl Iterator<Item = Self>) -> Self {
        Self::any(items.map(Self::not)).not()
    }
}

/// What is certain of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Certain {
    /// Envoy refuses whatever is asked.
    Refused,
    /// Envoy lets everything through.
    Allowed,
    /// It depends on what is asked.
    Depends,
}

/// Everything that an address-only reader knows of a connection.
struct Connection {
    source: IpAddr,
    /// `None` where a header that the first packet does not carry decides.
    remote: Option<IpAddr>,
    local: Option<(IpAddr, u16)>,
    /// Requests may carry a token.
    tokens: bool,
    /// The listener may see a TLS handshake.
    tls: bool,
}

/// What is certain for a client of a plain-text listener.
pub(crate) fn certain(placed: &Placed, client: IpAddr, chain: Chain) -> Certain {
    let way = placed.way(client, chain);
    let source = way.source;
    let local = (placed.pod(source), placed.port(chain));
    let (remote, local) = match (placed.set.topology, chain) {
        (Topology::Plain, _) | (Topology::XForwardedFor, Chain::Tcp) => (Some(source), Some(local)),
        (Topology::XForwardedFor, Chain::Http) => (None, Some(local)),
        (Topology::Proxy, _) => (Some(client), Some((way.written.ip(), way.written.port()))),
    };
    let tls = chain == Chain::Tcp && placed.set.tcp_server != TcpServer::Tcp;
    let connection = Connection {
        source,
        remote,
        local,
        tokens: placed.set.tokens && chain == Chain::Http,
        tls,
    };
    let mut through = Tri::True;
    for filter in rbac_filters(placed, chain) {
        let Some(rules) = filter.get("rules") else {
            continue;
        };
        let matched = Tri::any(
            rules
                .get("policies")
                .and_then(Value::as_object)
                .into_iter()
                .flatten()
                .map(|(_, policy)| connection.policy(policy)),
        );
        let passed = match rules.get("action").and_then(Value::as_str) {
            Some("ALLOW") => matched,
            Some("DENY") => matched.not(),
            _ => Tri::True,
        };
        through = Tri::all([through, passed].into_iter());
    }
    match through {
        Tri::True => Certain::Allowed,
        Tri::False => Certain::Refused,
        Tri::Unknown => Certain::Depends,
    }
}

fn items<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value.get(key).and_then(Value::as_array).into_iter().flatten()
}

impl Connection {
    fn policy(&self, policy: &Value) -> Tri {
        Tri::all(
            ["permissions", "principals"]
                .into_iter()
                .map(|list| Tri::any(items(policy, list).map(|matcher| self.matcher(matcher)))),
        )
    }

    fn matcher(&self, matcher: &Value) -> Tri {
        let Some((name, inner)) = matcher.as_object().and_then(|fields| fields.iter().next()) else {
            return Tri::Unknown;
        };
        match name.as_str() {
            "any" => Tri::True,
            "and_rules" => Tri::all(items(inner, "rules").map(|item| self.matcher(item))),
            "and_ids" => Tri::all(items(inner, "ids").map(|item| self.matcher(item))),
            "or_rules" => Tri::any(items(inner, "rules").map(|item| self.matcher(item))),
            "or_ids" => Tri::any(items(inner, "ids").map(|item| self.matcher(item))),
            "not_rule" | "not_id" => self.matcher(inner).not(),
            "direct_remote_ip" => covers(inner, Some(self.source)),
            "remote_ip" => covers(inner, self.remote),
            "destination_ip" => covers(inner, self.local.map(|(address, _)| address)),
            "destination_port" => self.local.map_or(Tri::Unknown, |(_, port)| {
                Tri::of(inner.as_u64() == Some(port.into()))
            }),
            "authenticated" if of_new_field(inner) => Tri::Unknown,
            "authenticated" | "requested_server_name" if self.tls => Tri::Unknown,
            // Plain text: no client certificate and no server name. Istio's patterns never match an empty server name
            // (presence is "one or more characters") as long as no empty suffix or prefix is written.
            "authenticated" | "requested_server_name" => Tri::False,
            // Without a RequestAuthentication there are no tokens.
            "metadata" if self.tokens || !of_token(inner) => Tri::Unknown,
            "metadata" => Tri::False,
            _ => Tri::Unknown,
        }
    }
}

/// Whether a certificate is asked for by `serviceAccounts` or `trustDomains`, which an older istiod ignores.
fn of_new_field(authenticated: &Value) -> bool {
    let regex = authenticated
        .pointer("/principal_name/safe_regex/regex")
        .and_then(Value::as_str)
        .unwrap_or_default();
    (regex.starts_with(".*/ns/") && regex.contains("/sa/"))
        || (regex.starts_with("spiffe://") && regex.ends_with("/.*"))
}

/// What other filters write cannot be known.
fn of_token(metadata: &Value) -> bool {
    metadata.get("filter").and_then(Value::as_str) == Some("envoy.filters.http.jwt_authn")
}

fn covers(range: &Value, address: Option<IpAddr>) -> Tri {
    let Some(address) = address else {
        return Tri::Unknown;
    };
    let text = range
        .get("address_prefix")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let length = range
        .get("prefix_len")
        .and_then(Value::as_u64)
        .unwrap_or_default();
    let same = |width: u64, a: u128, b: u128| length == 0 || (a ^ b) >> (width - length) == 0;
    Tri::of(match (text.parse::<IpAddr>(), address) {
        (Ok(IpAddr::V4(range)), IpAddr::V4(address)) => {
            same(32, range.to_bits().into(), address.to_bits().into())
        }
        (Ok(IpAddr::V6(range)), IpAddr::V6(address)) => same(128, range.to_bits(), address.to_bits()),
        _ => false,
    })
}

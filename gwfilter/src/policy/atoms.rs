//! What a field says on one chain of one receiver: it depends on the source address, or it has one answer for every address of a family, or
//! the chain does not have it at all.

use ipnet::IpNet;

use super::spec::{Attribute, Field, Values};
use crate::gateway::model::{ChainKind, ChainTls, Mesh, Receiver, Tri};

/// Where a rule is read: one chain of one receiver. A chain of unknown kind is read twice.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub(super) mesh: &'a Mesh,
    pub(super) receiver: &'a Receiver,
    /// The chain is an HTTP chain; else a TCP chain.
    pub(super) http: bool,
    /// The kind is assumed, not known.
    pub(super) assumed: bool,
    pub(super) tls: ChainTls,
    /// What the node has before it.
    pub(super) sight: Sight,
}

/// What the node has before it when it judges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Sight {
    /// A packet whose source is both the peer and the client of the gateway.
    Packet,
    /// A PROXY header: client and destination stand in it. `peer`: the packet's source is the peer of the gateway's socket; else
    /// nothing is known of that peer.
    Header { peer: bool },
}

impl<'a> Place<'a> {
    /// Every reading of a receiver's chains; `None` if one of them has no RBAC, so that nothing may be dropped.
    pub(super) fn all(mesh: &'a Mesh, receiver: &'a Receiver, sight: Sight) -> Option<Vec<Self>> {
        let mut places = Vec::new();
        for chain in &receiver.chains {
            let place = |http, assumed| Self {
                mesh,
                receiver,
                http,
                assumed,
                tls: chain.tls,
                sight,
            };
            match chain.kind {
                ChainKind::Http => places.push(place(true, false)),
                ChainKind::Tcp => places.push(place(false, false)),
                ChainKind::Unknown => places.extend([place(true, true), place(false, true)]),
                ChainKind::NoRbac | ChainKind::NoListener => return None,
            }
        }
        if places.is_empty() { None } else { Some(places) }
    }
}

/// What a field compares, of what the node sees. Where no proxy stands in front, peer and client are the packet's source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Input {
    /// The peer of the gateway's socket.
    Peer,
    /// The client that the gateway takes it for.
    Client,
    /// The address that the gateway's socket claims to have: the destination in a PROXY header.
    Destination,
    /// Its port.
    Port,
}

/// What a field says at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Atom {
    /// It compares this address or port; [`Field::negated`] is not applied.
    Address(Input),
    /// The answer for IPv4 and for IPv6 sources; [`Field::negated`] is applied.
    Fixed(Tri, Tri),
    /// A field of HTTP on a TCP chain: an ALLOW rule vanishes with it, in a DENY rule it vanishes.
    Vanishes,
}

impl Atom {
    /// Reads a field.
    pub(super) fn read(field: &Field, place: &Place<'_>) -> Self {
        if field.attribute.http_only() && !place.http {
            return Self::Vanishes;
        }
        let same = |value: Tri| {
            let value = if field.negated { value.not() } else { value };
            Self::Fixed(value, value)
        };
        // Without a client certificate an identity matches nothing; without an inspector there is no server name.
        let no_certificate = matches!(place.tls, ChainTls::Plain | ChainTls::Simple);
        let header = matches!(place.sight, Sight::Header { .. });
        match (field.attribute, &field.values) {
            (Attribute::SourceIp, _) if place.sight == (Sight::Header { peer: false }) => same(Tri::Unknown),
            (Attribute::SourceIp, _) => Self::Address(Input::Peer),
            // What cannot be read may hold what makes Envoy take these from elsewhere.
            (Attribute::RemoteIp, _) if place.mesh.unread => same(Tri::Unknown),
            (Attribute::DestinationIp | Attribute::DestinationPort, _) if header && place.mesh.unread => {
                same(Tri::Unknown)
            }
            (Attribute::RemoteIp, _) => Self::Address(Input::Client),
            // Envoy restores both from the header.
            (Attribute::DestinationIp, _) if header => Self::Address(Input::Destination),
            (Attribute::DestinationPort, _) if header => Self::Address(Input::Port),
            (Attribute::DestinationPort, Values::Ports(ports)) => {
                same(Tri::of(ports.contains(&place.receiver.port)))
            }
            (Attribute::DestinationIp, Values::Ranges(ranges)) => {
                let apply = |value: Tri| if field.negated { value.not() } else { value };
                let known = place.receiver.addresses.as_deref().unwrap_or_default();
                let [v4, v6] = [false, true].map(|v6| {
                    let ranges: Vec<&IpNet> = ranges
                        .iter()
                        .filter(|r| matches!(r, IpNet::V6(_)) == v6)
                        .collect();
                    let mut inside = known
                        .iter()
                        .filter(|a| a.is_ipv6() == v6)
                        .map(|a| ranges.iter().any(|r| r.contains(a)));
                    apply(if ranges.is_empty() {
                        Tri::False
                    } else if ranges.iter().any(|r| r.prefix_len() == 0) {
                        Tri::True
                    } else {
                        match inside.next() {
                            None => Tri::Unknown,
                            Some(first) => {
                                if inside.all(|other| other == first) {
                                    Tri::of(first)
                                } else {
                                    Tri::Unknown
                                }
                            }
                        }
                    })
                });
                Self::Fixed(v4, v6)
            }
            (Attribute::Sni, Values::Text { has_empty: false }) if place.tls == ChainTls::Plain => {
                same(Tri::False)
            }
            (Attribute::Identity, _) if no_certificate => same(Tri::False),
            // An istiod that does not know the field ignores it: then it holds, negated or not.
            (Attribute::NewIdentity, _) if no_certificate && field.negated => {
                Self::Fixed(Tri::True, Tri::True)
            }
            // An istiod that does not know the key skips the rule: then it does not hold, negated or not.
            (Attribute::NewIdentityKey, _) if no_certificate && !field.negated => {
                Self::Fixed(Tri::False, Tri::False)
            }
            (Attribute::Token, _) if place.mesh.request_authentication == Tri::False => same(Tri::False),
            _ => Self::Fixed(Tri::Unknown, Tri::Unknown),
        }
    }
}

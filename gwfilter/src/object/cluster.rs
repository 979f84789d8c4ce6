//! `Node`, `Namespace` and `EndpointSlice`.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use serde::{Deserialize, Serialize};

use super::meta::Meta;
use super::read::Cursor;
use super::service;
use crate::gateway::model::Protocol;

/// A Node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// Name, labels, annotations.
    pub meta: Meta,
    /// `status.addresses` of the types InternalIP and ExternalIP.
    pub addresses: BTreeSet<IpAddr>,
    /// `spec.podCIDRs` and `podCIDR`.
    pub pod_cidrs: BTreeSet<IpNet>,
    /// `spec.providerID`, e.g. `gce://…`; empty where there is none.
    pub provider_id: String,
}

impl Node {
    pub(super) fn read(meta: Meta, top: &Cursor<'_>) -> Self {
        let addresses = top
            .at(&["status", "addresses"])
            .list()
            .iter()
            .filter(|a| matches!(a.field("type").string(), Some("InternalIP" | "ExternalIP")))
            .filter_map(|a| a.field("address").address())
            .collect();
        let spec = top.field("spec");
        let pod_cidrs = spec
            .field("podCIDRs")
            .list()
            .into_iter()
            .chain([spec.field("podCIDR")])
            .filter_map(|c| cidr(&c))
            .collect();
        let provider_id = spec.field("providerID").string().unwrap_or_default().to_owned();
        Self {
            meta,
            addresses,
            pod_cidrs,
            provider_id,
        }
    }
}

fn cidr(cursor: &Cursor<'_>) -> Option<IpNet> {
    let text = cursor.string().filter(|text| !text.is_empty())?;
    let parsed = text.parse().ok();
    if parsed.is_none() {
        cursor.fault(&format!("expected a CIDR, found {text:?}"));
    }
    parsed.map(|net: IpNet| net.trunc())
}

/// A Namespace: its labels decide on discovery.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Namespace {
    /// Name, labels, annotations.
    pub meta: Meta,
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Addresses; empty where they are names.
    pub addresses: BTreeSet<IpAddr>,
    /// `conditions.ready`, true where it is not stated.
    pub ready: bool,
    /// `conditions.serving`, the same as ready where it is not stated.
    pub serving: bool,
    /// `conditions.terminating`.
    pub terminating: bool,
    /// Node it runs on.
    pub node: Option<String>,
    /// Name of the Pod it stands for, in the slice's namespace.
    pub pod: Option<String>,
}

impl Endpoint {
    /// Whether kube-proxy may send to it: ready, or serving while it terminates.
    #[must_use]
    pub fn receives(&self) -> bool {
        self.ready || (self.serving && self.terminating)
    }
}

/// An EndpointSlice.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EndpointSlice {
    /// Name, namespace, labels, annotations.
    pub meta: Meta,
    /// Endpoints.
    pub endpoints: Vec<Endpoint>,
    /// Service port name, protocol and resolved port.
    pub ports: Vec<(String, Protocol, u16)>,
}

impl EndpointSlice {
    pub(super) fn read(meta: Meta, top: &Cursor<'_>) -> Self {
        let named = top.field("addressType").string() == Some("FQDN");
        let endpoints = top
            .field("endpoints")
            .list()
            .iter()
            .map(|e| endpoint(e, named))
            .collect();
        let ports = top.field("ports").list().into_iter().filter_map(|port| {
            let name = port.field("name").string().unwrap_or_default().to_owned();
            Some((name, service::protocol(&port)?, port.field("port").port()?))
        });
        let ports = ports.collect();
        Self {
            meta,
            endpoints,
            ports,
        }
    }

    /// The Service it belongs to, in its own namespace.
    #[must_use]
    pub fn service(&self) -> Option<&str> {
        self.meta
            .labels
            .get(service::SERVICE_NAME_LABEL)
            .map(String::as_str)
    }
}

fn endpoint(cursor: &Cursor<'_>, named: bool) -> Endpoint {
    let conditions = cursor.field("conditions");
    let ready = conditions.field("ready").boolean().unwrap_or(true);
    let target = cursor.field("targetRef");
    let pod = (target.field("kind").string() == Some("Pod"))
        .then(|| target.field("name").string())
        .flatten();
    let addresses = if named {
        BTreeSet::new()
    } else {
        cursor
            .field("addresses")
            .list()
            .iter()
            .filter_map(Cursor::address)
            .collect()
    };
    Endpoint {
        addresses,
        ready,
        serving: conditions.field("serving").boolean().unwrap_or(ready),
        terminating: conditions.field("terminating").boolean().unwrap_or(false),
        node: cursor.field("nodeName").string().map(str::to_owned),
        pod: pod.map(str::to_owned),
    }
}

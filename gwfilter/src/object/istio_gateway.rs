//! `Gateway` of `networking.istio.io`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::meta::Meta;
use super::read::Cursor;

/// One server of a Gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// `port.number`.
    pub number: u16,
    /// `port.protocol` in upper case.
    pub protocol: String,
    /// `bind`: the address that Envoy listens at instead of all; `None` where it is not stated.
    pub bind: Option<String>,
    /// `tls.mode` in upper case, where there is a `tls` block (`PASSTHROUGH` is its zero value).
    pub tls: Option<String>,
}

/// An Istio Gateway.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IstioGateway {
    /// Name, namespace, labels, annotations.
    pub meta: Meta,
    /// Labels of the pods that it configures; empty: all gateways.
    pub selector: BTreeMap<String, String>,
    /// Servers.
    pub servers: Vec<Server>,
}

impl IstioGateway {
    pub(super) fn read(meta: Meta, top: &Cursor<'_>) -> Self {
        let spec = top.field("spec");
        let servers = spec.field("servers").list().into_iter().filter_map(|server| {
            let port = server.field("port");
            let bind = server.field("bind").string().filter(|bind| !bind.is_empty());
            let number = port.field("number").value();
            // A unix socket has no port, and Istio wants a 0 there.
            if bind.is_some_and(|bind| bind.starts_with("unix:")) && (number.is_null() || number == 0) {
                return None;
            }
            if port.field("number").is_absent() {
                port.field("number").fault("a server needs a port number");
            }
            let tls = server.field("tls");
            let mode = tls.field("mode");
            let mode = if mode.value().is_number() {
                mode.fault("expected the name of a mode, found a number");
                None
            } else {
                mode.string()
            };
            Some(Server {
                number: port.field("number").port()?,
                protocol: port
                    .field("protocol")
                    .string()
                    .unwrap_or_default()
                    .to_ascii_uppercase(),
                bind: bind.map(str::to_owned),
                tls: (!tls.is_absent()).then(|| mode.unwrap_or("PASSTHROUGH").to_ascii_uppercase()),
            })
        });
        let servers = servers.collect();
        Self {
            selector: spec.field("selector").string_map(),
            servers,
            meta,
        }
    }
}

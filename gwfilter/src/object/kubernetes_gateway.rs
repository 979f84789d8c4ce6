//! `Gateway` of `gateway.networking.k8s.io`.

use serde::{Deserialize, Serialize};

use super::meta::Meta;
use super::read::Cursor;

/// Label that Istio puts on the pods and the Service of a Gateway API Gateway.
pub const GATEWAY_NAME_LABEL: &str = "gateway.networking.k8s.io/gateway-name";

/// One listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KubernetesListener {
    /// Port.
    pub port: u16,
    /// Protocol in upper case.
    pub protocol: String,
    /// `tls.mode` in upper case, where it is stated.
    pub tls_mode: Option<String>,
    /// A client certificate may be asked for, or the TLS mode is set by an option.
    pub special_tls: bool,
}

/// A Gateway API Gateway.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KubernetesGateway {
    /// Name, namespace, labels, annotations.
    pub meta: Meta,
    /// `gatewayClassName`.
    pub class: String,
    /// Listeners.
    pub listeners: Vec<KubernetesListener>,
    /// Host names in `addresses`: Services (`name.namespace.svc…`) whose pods serve it, instead of pods that Istio makes.
    pub services: Vec<String>,
    /// `allowedListeners`: ListenerSets may add listeners.
    pub more_listeners: bool,
}

impl KubernetesGateway {
    pub(super) fn read(meta: Meta, top: &Cursor<'_>) -> Self {
        let spec = top.field("spec");
        let frontend = !spec.at(&["tls", "frontend"]).is_absent();
        let listeners = spec.field("listeners").list().into_iter().filter_map(|listener| {
            let tls = listener.field("tls");
            let options = tls.field("options");
            Some(KubernetesListener {
                port: listener.field("port").port()?,
                protocol: listener
                    .field("protocol")
                    .string()
                    .unwrap_or_default()
                    .to_ascii_uppercase(),
                tls_mode: tls.field("mode").string().map(str::to_ascii_uppercase),
                special_tls: frontend
                    || !tls.field("frontendValidation").is_absent()
                    || !options.entries().is_empty(),
            })
        });
        let listeners = listeners.collect();
        let addresses = spec.field("addresses").list();
        let services = addresses
            .iter()
            .filter(|a| a.field("type").string() == Some("Hostname"))
            .filter_map(|a| a.field("value").string().map(str::to_owned))
            .collect();
        Self {
            class: spec
                .field("gatewayClassName")
                .string()
                .unwrap_or_default()
                .to_owned(),
            listeners,
            services,
            more_listeners: !spec.field("allowedListeners").is_absent(),
            meta,
        }
    }
}

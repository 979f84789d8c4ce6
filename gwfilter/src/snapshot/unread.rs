//! Input that could not be read yet and has no last good version: what may be missing, and what that costs.

use std::collections::BTreeMap;

use crate::object::Kind;

/// What a watch speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// All objects of a kind; of Pods those of this node.
    Kind(Kind),
    /// istiod's pods, on whichever node.
    Istiods,
}

impl Subject {
    /// What is left undone while nothing is known of it. Each half sentence holds for every gateway.
    #[must_use]
    pub fn cost(self) -> &'static str {
        match self {
            Self::Istiods => {
                "the revision of istiod is not known: policies with the label istio.io/rev, and policies with a \
                 selector at gateways of the Gateway API, are left to the gateway"
            }
            Self::Kind(kind) => match kind {
                Kind::AuthorizationPolicy => "no policy is known: nothing is dropped",
                Kind::ConfigMap | Kind::IstioOperator => {
                    "the mesh configuration is not known: policies of other namespaces than a gateway's own are left \
                     to it, and so is every policy of a gateway whose pods do not carry PROXY_CONFIG"
                }
                Kind::EnvoyFilter | Kind::WasmPlugin | Kind::TrafficExtension => {
                    "one of them may change what the gateway takes for the client address, or answer before \
                     authorization: only gateways whose client address is stated by hand are enforced"
                }
                Kind::ProxyConfig => {
                    "only gateways whose pods carry PROXY_CONFIG, or whose client address is stated by hand, are \
                     enforced"
                }
                Kind::RequestAuthentication => "what a rule says of request tokens is left to the gateway",
                Kind::Namespace => "where discoverySelectors are set, every policy is left to the gateway",
                Kind::IstioGateway
                | Kind::KubernetesGateway
                | Kind::Service
                | Kind::EndpointSlice
                | Kind::Pod
                | Kind::Node => "no gateway is enforced",
                Kind::Deployment | Kind::DaemonSet | Kind::StatefulSet => {
                    "nothing is left undone: running pods tell what their templates would"
                }
            },
        }
    }
}

/// What is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unread {
    /// Input that may hold anything, as a file: objects of any kind may be missing.
    pub input: bool,
    /// Watches that gave nothing yet, each with the reason.
    pub watches: BTreeMap<Subject, String>,
}

impl Unread {
    /// Whether objects of a kind may be missing.
    #[must_use]
    pub fn may_hold(&self, kind: Kind) -> bool {
        self.input || self.watched(kind).is_some()
    }

    /// Why nothing is known of a kind that is watched.
    #[must_use]
    pub fn watched(&self, kind: Kind) -> Option<&str> {
        self.watches.get(&Subject::Kind(kind)).map(String::as_str)
    }

    /// Whether istiod's pods may be there unseen.
    #[must_use]
    pub fn istiods(&self) -> bool {
        self.watches.contains_key(&Subject::Istiods)
    }
}

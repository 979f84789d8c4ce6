//! What is said of destinations that are not judged.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::chains::{Bind, Nobody};
use super::destinations::{Alone, Whose};
use super::model::{TupleKey, Why};
use crate::object::pod::Pod;
use crate::object::service::Service;

/// A port by the name that it has in the Service, and its number in the pods.
pub(super) fn port(label: &str, number: u16) -> String {
    let number = number.to_string();
    if label == number {
        number
    } else {
        format!("{label} ({number} of its pods)")
    }
}

fn list<T: ToString>(all: impl IntoIterator<Item = T>) -> String {
    let mut all = all.into_iter();
    let some: Vec<String> = all.by_ref().take(4).map(|one| one.to_string()).collect();
    let more = if all.next().is_some() { ", …" } else { "" };
    format!("{}{more}", some.join(", "))
}

/// The remark on ports behind which Envoy may have no listener.
pub(super) fn no_server(nobody: &Nobody, ports: &BTreeSet<String>) -> Why {
    let ports = ports.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    let what = match nobody {
        Nobody::NoServer => {
            "no server of a Gateway for its pods names it, and Envoy listens only where one does, so whatever answers there \
             applies no policies: nothing is judged there. If Envoy should listen there, name the port in a Gateway; what an Ingress \
             opens is left to the gateway"
                .to_owned()
        }
        Nobody::Doubtful => {
            "a Gateway names it, but it is not certain that Envoy listens there: nothing is judged there. Look whether istiod reads \
             that Gateway for these pods (its istio.io/rev, discoverySelectors, PILOT_SCOPE_GATEWAY_TO_NAMESPACE), whether the pod may \
             listen below 1024 (ISTIO_META_UNPRIVILEGED_POD), and whether the Services of the pods lead the number to one port only"
                .to_owned()
        }
        Nobody::Container(name) => format!(
            "the container {name} declares it, so it is not Envoy that answers there: nothing is judged there. If it is Envoy, \
             declare the port at the container istio-proxy"
        ),
        Nobody::Own(variable) => format!(
            "{variable} makes it Envoy's own, where policies do not apply: nothing is judged there"
        ),
    };
    Why {
        code: match nobody {
            Nobody::Doubtful => "server-doubtful",
            _ => "no-server",
        },
        text: format!("port {ports}: {what}"),
    }
}

/// The remark on destinations that somebody else has.
pub(super) fn of_others(foreign: &[(TupleKey, Whose<'_>)]) -> Option<Why> {
    let [(key, whose), more @ ..] = foreign else {
        return None;
    };
    let more = match more.len() {
        0 => String::new(),
        1 => "; and another destination".to_owned(),
        more => format!("; and {more} other destinations"),
    };
    Some(Why {
        code: "tuple-of-another-service",
        text: format!("{key} also belongs to {whose}: it is not judged{more}"),
    })
}

/// The remark on an address of a gateway's pod that another pod has too.
pub(super) fn shared(addr: IpAddr, pod: &Pod) -> Why {
    Why {
        code: "tuple-of-another-service",
        text: format!(
            "{addr} is also the address of Pod {}/{}: what comes there, or through the Service, is not judged until one of the \
             two is gone",
            pod.meta.namespace, pod.meta.name
        ),
    }
}

/// The remark on destinations that kube-proxy leaves alone.
pub(super) fn not_by_kube_proxy(alone: Alone, keys: &BTreeSet<TupleKey>) -> Why {
    let keys = list(keys);
    let text = match alone {
        Alone::Headless => {
            format!("the Service is headless, so nothing leads {keys} to its pods: nothing is judged there")
        }
        Alone::OtherProxy => format!(
            "another proxy than kube-proxy serves the Service (service.kubernetes.io/service-proxy-name), and what it makes of {keys} \
             is not known: nothing is judged there"
        ),
        Alone::Balancer => format!(
            "the load balancer passes connections to {keys} on itself (ipMode in the Service's status), so the gateway sees its \
             address and not the client's: nothing is judged there"
        ),
    };
    Why {
        code: "not-by-kube-proxy",
        text,
    }
}

/// The remark on a port whose servers are bound elsewhere.
pub(super) fn server_bind(port: &str, bind: &Bind) -> Why {
    let bound = match bind {
        Bind::All => "every address".to_owned(),
        Bind::At(addr) => addr.to_string(),
        Bind::Unclear(all) => list(all),
    };
    Why {
        code: "server-bind",
        text: format!(
            "port {port}: the servers of its Gateways are bound to {bound}, so it is not certain that Envoy has what comes to the \
             other addresses of the pod or node: nothing is judged there. Bind all to one address, or to none"
        ),
    }
}

/// The remark on a Service with `externalTrafficPolicy: Cluster` whose pods here read the PROXY header.
pub(super) fn header_elsewhere(service: &Service) -> Why {
    let (namespace, name) = (&service.meta.namespace, &service.meta.name);
    Why {
        code: "proxy-header-elsewhere",
        text: format!(
            "with externalTrafficPolicy Cluster any pod of the Service may receive what comes by load-balancer, external and \
             node addresses, and whether those on other nodes read the PROXY header is not known here: it is left to the \
             gateway. State it: kubectl -n {namespace} annotate service {name} gwfilter.io/client-address=proxy-header"
        ),
    }
}

/// The remark on any other with that policy.
pub(super) fn cluster_policy(service: &Service) -> Why {
    let (namespace, name) = (&service.meta.namespace, &service.meta.name);
    Why {
        code: "external-traffic-policy-cluster",
        text: format!(
            "with externalTrafficPolicy Cluster this node sees the client's address and the gateway a node's, so they \
             do not agree on load-balancer, external and node addresses, and what comes there is left to the gateway \
             (at pod addresses and host ports they do). To keep the client's address, with a gateway pod on every \
             node that gets traffic: kubectl -n {namespace} patch service {name} -p \
             '{{\"spec\":{{\"externalTrafficPolicy\":\"Local\"}}}}'"
        ),
    }
}

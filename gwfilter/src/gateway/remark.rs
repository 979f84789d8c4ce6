//! What is said of destinations that are not judged.

use std::collections::BTreeSet;

use super::chains::Nobody;
use super::model::Why;

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
        code: "no-server",
        text: format!("port {ports}: {what}"),
    }
}

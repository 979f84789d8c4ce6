//! Annotations by which clouds' load balancers are told to write a PROXY header. They are hints only: what counts is whether Envoy
//! reads it.

use super::annotations::Annotations;
use super::candidate::Candidate;
use super::world::World;

/// An annotation by which a cloud's load balancer is told to write a PROXY header.
pub(super) fn sign(
    world: &World<'_>,
    candidate: &Candidate<'_>,
    siblings: &[(&Candidate<'_>, &Annotations)],
) -> Option<String> {
    let all = std::iter::once(candidate).chain(siblings.iter().map(|(sibling, _)| *sibling));
    for one in all {
        let own = one.service.map(|s| &s.meta.annotations);
        let operator = world.operator_gateways(one);
        let annotations = own
            .into_iter()
            .flatten()
            .chain(operator.iter().flat_map(|(_, g)| &g.service_annotations));
        for (key, value) in annotations {
            if switches_proxy_on(key, value) {
                return Some(format!("Service {} carries {key}: {value:?}", one.id()));
            }
        }
    }
    None
}

/// The clouds' annotations differ in their prefix only; each says "PROXY protocol" in some spelling. AWS has it among
/// the attributes of a target group, UpCloud in a JSON text.
fn switches_proxy_on(key: &str, value: &str) -> bool {
    let key = key.to_ascii_lowercase();
    let value = value.to_ascii_lowercase();
    let named = ["proxy-protocol", "proxyprotocol", "proxy_protocol", "ppv2"]
        .iter()
        .any(|word| key.contains(word));
    let off = matches!(
        value.trim(),
        "" | "false" | "none" | "off" | "no" | "0" | "disabled" | "disable"
    );
    let inside = !key.starts_with("kubectl.kubernetes.io/")
        && ["proxy_protocol_v2.enabled=true", "outboundproxyprotocol"]
            .iter()
            .any(|word| value.contains(word));
    (named && !off) || inside
}

#[cfg(test)]
mod tests {
    use super::switches_proxy_on;

    #[test]
    fn annotations_of_clouds_then_whether_they_switch_proxy_on() {
        let on = [
            ("service.beta.kubernetes.io/aws-load-balancer-proxy-protocol", "*"),
            (
                "service.beta.kubernetes.io/aws-load-balancer-target-group-attributes",
                "deregistration_delay.timeout_seconds=5,proxy_protocol_v2.enabled=true",
            ),
            (
                "service.beta.kubernetes.io/do-loadbalancer-enable-proxy-protocol",
                "true",
            ),
            ("load-balancer.hetzner.cloud/uses-proxyprotocol", "true"),
            (
                "service.beta.kubernetes.io/linode-loadbalancer-proxy-protocol",
                "v2",
            ),
            (
                "service.beta.kubernetes.io/scw-loadbalancer-proxy-protocol-v2",
                "*",
            ),
            ("loadbalancer.openstack.org/proxy-protocol", "v1"),
            ("service.beta.kubernetes.io/ovh-loadbalancer-proxy-protocol", "v2"),
            (
                "oci.oraclecloud.com/oci-load-balancer-connection-proxy-protocol-version",
                "1",
            ),
            (
                "oci-network-load-balancer.oraclecloud.com/is-ppv2-enabled",
                "true",
            ),
            ("service.beta.kubernetes.io/azure-pls-proxy-protocol", "true"),
            (
                "service.beta.kubernetes.io/alibaba-cloud-loadbalancer-proxy-protocol",
                "on",
            ),
        ];
        for (key, value) in on {
            assert!(switches_proxy_on(key, value), "{key}");
        }
        let off = [
            ("load-balancer.hetzner.cloud/uses-proxyprotocol", "false"),
            (
                "service.beta.kubernetes.io/linode-loadbalancer-proxy-protocol",
                "none",
            ),
            (
                "service.beta.kubernetes.io/aws-load-balancer-target-group-attributes",
                "proxy_protocol_v2.enabled=false",
            ),
            ("service.beta.kubernetes.io/aws-load-balancer-type", "nlb"),
            ("example.com/proxy", "true"),
        ];
        for (key, value) in off {
            assert!(!switches_proxy_on(key, value), "{key}");
        }
    }
}

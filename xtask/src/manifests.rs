//! The site's objects, as `kubectl get -o yaml` would print them, and policies as the Istio page writes them.

use std::fmt::Write as _;

use crate::site::{NODE, NODE_PORT, NODE_V4, NODE_V6, POD_PORT, POD_V4, POD_V6, VIP_PORT, VIP_V4, VIP_V6};

/// The gateway's Service, its Pod, the Node and Istio's `Gateway`, in one multi-document file.
#[must_use]
pub fn cluster() -> String {
    format!(
        "\
apiVersion: v1
kind: Service
metadata:
  name: istio-ingressgateway
  namespace: istio-system
  labels: {{app: istio-ingressgateway, istio: ingressgateway}}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  healthCheckNodePort: 30021
  ipFamilyPolicy: PreferDualStack
  ipFamilies: [IPv4, IPv6]
  clusterIP: 10.96.0.80
  clusterIPs: [10.96.0.80, \"fd00:96::80\"]
  selector: {{app: istio-ingressgateway, istio: ingressgateway}}
  ports:
    - {{name: http2, protocol: TCP, port: {VIP_PORT}, targetPort: {POD_PORT}, nodePort: {NODE_PORT}}}
status:
  loadBalancer:
    ingress:
      - ip: {VIP_V4}
      - ip: \"{VIP_V6}\"
---
apiVersion: v1
kind: Pod
metadata:
  name: istio-ingressgateway-7d9c6b8f5-x2x9k
  namespace: istio-system
  labels: {{app: istio-ingressgateway, istio: ingressgateway}}
spec:
  nodeName: {NODE}
  containers:
    - name: istio-proxy
      image: docker.io/istio/proxyv2:1.31.4
      args: [proxy, router, --domain, istio-system.svc.cluster.local]
      ports:
        - {{containerPort: {POD_PORT}, protocol: TCP}}
status:
  phase: Running
  hostIP: {NODE_V4}
  podIP: {POD_V4}
  podIPs:
    - ip: {POD_V4}
    - ip: \"{POD_V6}\"
  conditions:
    - {{type: Ready, status: \"True\"}}
---
apiVersion: v1
kind: Node
metadata:
  name: {NODE}
  labels: {{kubernetes.io/os: linux}}
spec:
  podCIDRs: [10.244.1.0/24, \"fd00:244::/64\"]
status:
  addresses:
    - {{type: InternalIP, address: {NODE_V4}}}
    - {{type: InternalIP, address: \"{NODE_V6}\"}}
    - {{type: Hostname, address: {NODE}}}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata:
  name: httpbin-gateway
  namespace: foo
spec:
  selector: {{istio: ingressgateway}}
  servers:
    - port: {{number: {VIP_PORT}, name: http, protocol: HTTP}}
      hosts: [\"*\"]
"
    )
}

/// The same with `gatewayTopology.proxyProtocol` in the gateway's configuration: Envoy reads the client's address from a PROXY header.
#[must_use]
pub fn cluster_with_proxy_protocol() -> String {
    cluster().replace(
        "\
  labels: {app: istio-ingressgateway, istio: ingressgateway}
spec:
  nodeName",
        "\
  labels: {app: istio-ingressgateway, istio: ingressgateway}
  annotations:
    proxy.istio.io/config: '{\"gatewayTopology\": {\"proxyProtocol\": {}}}'
spec:
  nodeName",
    )
}

/// The page's policy: name `ingress-policy`, selector `app: istio-ingressgateway`, one rule with one source.
///
/// `action` is `ALLOW` or `DENY`, `field` is `ipBlocks` or `remoteIpBlocks` (or one of their negations).
#[must_use]
pub fn ingress_policy(action: &str, field: &str, blocks: &[&str]) -> String {
    let mut quoted = String::new();
    for block in blocks {
        let comma = if quoted.is_empty() { "" } else { ", " };
        let _ = write!(quoted, "{comma}\"{block}\"");
    }
    format!(
        "\
apiVersion: security.istio.io/v1beta1
kind: AuthorizationPolicy
metadata:
  name: ingress-policy
  namespace: istio-system
spec:
  selector:
    matchLabels:
      app: istio-ingressgateway
  action: {action}
  rules:
    - from:
        - source:
            {field}: [{quoted}]
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxy_protocol_then_the_pod_says_so() {
        let text = cluster_with_proxy_protocol();
        assert_eq!(text.matches("proxyProtocol").count(), 1, "{text}");
    }

    #[test]
    fn policy_then_the_pages_own_lines() {
        let text = ingress_policy("ALLOW", "ipBlocks", &["1.2.3.4", "5.6.7.0/24"]);
        assert!(text.contains("  action: ALLOW\n"), "{text}");
        assert!(
            text.ends_with("            ipBlocks: [\"1.2.3.4\", \"5.6.7.0/24\"]\n"),
            "{text}"
        );
    }
}

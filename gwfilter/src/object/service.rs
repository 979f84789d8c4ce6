//! `Service`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::meta::Meta;
use super::read::Cursor;
use crate::gateway::model::Protocol;

/// Label on a Service's EndpointSlices.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// Where a Service port leads in a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TargetPort {
    /// A number.
    Number(u16),
    /// The name of a container port, which each pod resolves for itself.
    Name(String),
}

/// One port of a Service. Ports of other protocols than TCP and UDP are left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    /// Name; empty where there is none.
    pub name: String,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Port on load-balancer and external addresses.
    pub port: u16,
    /// Port of the pods.
    pub target: TargetPort,
    /// Port on node addresses.
    pub node_port: Option<u16>,
}

impl ServicePort {
    /// The name, or the number where there is none.
    #[must_use]
    pub fn label(&self) -> String {
        if self.name.is_empty() {
            self.port.to_string()
        } else {
            self.name.clone()
        }
    }
}

/// A Service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Service {
    /// Name, namespace, labels, annotations.
    pub meta: Meta,
    /// `spec.type` is `ExternalName`: it has no pods.
    pub external_name: bool,
    /// Pod selector; empty: none.
    pub selector: BTreeMap<String, String>,
    /// Ports.
    pub ports: Vec<ServicePort>,
    /// `externalTrafficPolicy: Local`.
    pub local_policy: bool,
    /// `healthCheckNodePort`.
    pub health_check_node_port: Option<u16>,
    /// `status.loadBalancer.ingress[].ip`, where the balancer sends packets on as they are (`ipMode: VIP`, the default).
    pub load_balancer: BTreeSet<IpAddr>,
    /// The others: the balancer passes connections on itself (`ipMode: Proxy`), and kube-proxy leaves the address alone.
    pub passed_on: BTreeSet<IpAddr>,
    /// `spec.externalIPs`.
    pub external_ips: BTreeSet<IpAddr>,
    /// `clusterIP: None`: kube-proxy does nothing for it. Not there is not yet set.
    pub headless: bool,
    /// Cluster addresses, which are never judged.
    pub cluster_ips: BTreeSet<IpAddr>,
    /// `spec.ipFamilies` as (IPv4, IPv6); both where it is not stated.
    pub families: (bool, bool),
}

impl Service {
    /// Whether the Service answers on addresses of this family.
    #[must_use]
    pub fn has_family(&self, addr: IpAddr) -> bool {
        if addr.is_ipv4() {
            self.families.0
        } else {
            self.families.1
        }
    }

    pub(super) fn read(meta: Meta, top: &Cursor<'_>) -> Self {
        let spec = top.field("spec");
        let local_policy = match spec.field("externalTrafficPolicy").string() {
            Some("Local") => true,
            None | Some("" | "Cluster") => false,
            Some(other) => {
                spec.field("externalTrafficPolicy")
                    .fault(&format!("expected Local or Cluster, found {other:?}"));
                false
            }
        };
        let (mut load_balancer, mut passed_on) = (BTreeSet::new(), BTreeSet::new());
        for ingress in top.at(&["status", "loadBalancer", "ingress"]).list() {
            let kept = matches!(ingress.field("ipMode").string(), None | Some("" | "VIP"));
            let addresses = if kept { &mut load_balancer } else { &mut passed_on };
            addresses.extend(ingress.field("ip").address());
        }
        let external_ips = spec
            .field("externalIPs")
            .list()
            .iter()
            .filter_map(Cursor::address)
            .collect();
        let mut headless = false;
        let mut cluster_ips = BTreeSet::new();
        for ip in spec
            .field("clusterIPs")
            .list()
            .into_iter()
            .chain([spec.field("clusterIP")])
        {
            if ip.string() == Some("None") {
                headless = true;
            } else {
                cluster_ips.extend(ip.address());
            }
        }
        let families: Vec<&str> = spec
            .field("ipFamilies")
            .list()
            .iter()
            .filter_map(Cursor::string)
            .collect();
        let families = if families.is_empty() {
            (true, true)
        } else {
            (families.contains(&"IPv4"), families.contains(&"IPv6"))
        };
        Self {
            meta,
            external_name: spec.field("type").string() == Some("ExternalName"),
            selector: spec.field("selector").string_map(),
            ports: spec.field("ports").list().iter().filter_map(port).collect(),
            local_policy,
            health_check_node_port: spec.field("healthCheckNodePort").optional_port(),
            load_balancer,
            passed_on,
            external_ips,
            headless,
            cluster_ips,
            families,
        }
    }
}

/// `protocol` of a port; the outer `None` is another protocol than TCP and UDP.
pub(super) fn protocol(port: &Cursor<'_>) -> Option<Protocol> {
    match port.field("protocol").string() {
        None | Some("" | "TCP") => Some(Protocol::Tcp),
        Some("UDP") => Some(Protocol::Udp),
        Some("SCTP") => None,
        Some(other) => {
            port.field("protocol")
                .fault(&format!("expected TCP, UDP or SCTP, found {other:?}"));
            None
        }
    }
}

fn port(cursor: &Cursor<'_>) -> Option<ServicePort> {
    let number = cursor.field("port");
    if number.is_absent() {
        number.fault("a Service port needs a number");
    }
    let number = number.port()?;
    let target = cursor.field("targetPort");
    let target = if target.value().is_string() {
        match target.string() {
            None | Some("") => TargetPort::Number(number),
            Some(name) => TargetPort::Name(name.to_owned()),
        }
    } else {
        // 0 is the API's way to say "the same as port".
        TargetPort::Number(target.optional_port().unwrap_or(number))
    };
    Some(ServicePort {
        name: cursor.field("name").string().unwrap_or_default().to_owned(),
        protocol: protocol(cursor)?,
        port: number,
        target,
        node_port: cursor.field("nodePort").optional_port(),
    })
}

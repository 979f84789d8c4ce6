//! `Pod`, and the pod templates of Deployments, DaemonSets and StatefulSets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::meta::Meta;
use super::read::Cursor;
use super::service;
use crate::gateway::model::Protocol;

/// Name of the container that Envoy runs in.
pub const PROXY: &str = "istio-proxy";

/// One port of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerPort {
    /// Name; empty where there is none.
    pub name: String,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Port in the pod.
    pub container_port: u16,
    /// Port on the node.
    pub host_port: Option<u16>,
    /// The node address of the host port; `None`: all of them.
    pub host_ip: Option<IpAddr>,
}

/// What an environment variable is set to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EnvValue {
    /// A literal. A `$(NAME)` in it is not expanded here.
    Literal(String),
    /// `valueFrom`: not in the object.
    Elsewhere,
}

/// One container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// Name.
    pub name: String,
    /// Arguments; `None` where none are given (the image's own are used).
    pub args: Option<Vec<String>>,
    /// Environment variables.
    pub env: BTreeMap<String, EnvValue>,
    /// `envFrom` is there: more variables that the object does not tell.
    pub env_from: bool,
    /// Ports.
    pub ports: Vec<ContainerPort>,
}

/// What a pod runs: `spec` of a Pod or of a pod template.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodSpec {
    /// Containers.
    pub containers: Vec<Container>,
    /// Init containers that keep running; they have ports too, but make no gateway (that is an injected sidecar).
    pub sidecars: Vec<Container>,
    /// `hostNetwork`.
    pub host_network: bool,
}

/// A Pod.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pod {
    /// Name, namespace, labels, annotations.
    pub meta: Meta,
    /// Containers and network.
    pub spec: PodSpec,
    /// `spec.nodeName`.
    pub node: Option<String>,
    /// `status.phase`; empty where it is not stated.
    pub phase: String,
    /// `status.podIPs` and `podIP`.
    pub ips: BTreeSet<IpAddr>,
    /// The `Ready` condition, where there is one.
    pub ready: Option<bool>,
    /// `metadata.deletionTimestamp` is set.
    pub terminating: bool,
    /// Kind and name of the controlling owner.
    pub owner: Option<(String, String)>,
}

/// The pod template of a Deployment, DaemonSet or StatefulSet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Template {
    /// Name, namespace, labels, annotations of the object itself.
    pub meta: Meta,
    /// Labels of the pods. More may be added when they are made.
    pub labels: BTreeMap<String, String>,
    /// Annotations of the pods.
    pub annotations: BTreeMap<String, String>,
    /// Containers and network.
    pub spec: PodSpec,
}

impl PodSpec {
    /// The container `istio-proxy`.
    #[must_use]
    pub fn proxy(&self) -> Option<&Container> {
        self.containers.iter().find(|container| container.name == PROXY)
    }

    /// The number of a named container port.
    #[must_use]
    pub fn named_port(&self, name: &str, protocol: Protocol) -> Option<u16> {
        let mut ports = self
            .containers
            .iter()
            .chain(&self.sidecars)
            .flat_map(|container| &container.ports);
        ports
            .find(|p| p.name == name && p.protocol == protocol)
            .map(|p| p.container_port)
    }

    fn read(spec: &Cursor<'_>) -> Self {
        let init = spec.field("initContainers").list();
        let sidecars = init
            .iter()
            .filter(|init| init.field("restartPolicy").string() == Some("Always"));
        Self {
            containers: spec.field("containers").list().iter().map(container).collect(),
            sidecars: sidecars.map(container).collect(),
            host_network: spec.field("hostNetwork").boolean().unwrap_or(false),
        }
    }
}

impl Pod {
    /// Neither finished nor failed: it may have, or get, an address that is its own.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        !matches!(self.phase.as_str(), "Succeeded" | "Failed")
    }

    pub(super) fn read(meta: Meta, top: &Cursor<'_>) -> Self {
        let status = top.field("status");
        let ips = status
            .field("podIPs")
            .list()
            .iter()
            .map(|ip| ip.field("ip"))
            .chain([status.field("podIP")])
            .filter_map(|ip| ip.address())
            .collect();
        let ready = status
            .field("conditions")
            .list()
            .iter()
            .find(|condition| condition.field("type").string() == Some("Ready"))
            .map(|condition| condition.field("status").string() == Some("True"));
        let owner = top
            .at(&["metadata", "ownerReferences"])
            .list()
            .iter()
            .find(|owner| owner.field("controller").boolean() == Some(true))
            .map(|owner| {
                let text = |key| owner.field(key).string().unwrap_or_default().to_owned();
                (text("kind"), text("name"))
            });
        let spec = top.field("spec");
        Self {
            meta,
            spec: PodSpec::read(&spec),
            node: spec
                .field("nodeName")
                .string()
                .filter(|n| !n.is_empty())
                .map(str::to_owned),
            phase: status.field("phase").string().unwrap_or_default().to_owned(),
            ips,
            ready,
            terminating: !top.at(&["metadata", "deletionTimestamp"]).is_absent(),
            owner,
        }
    }
}

impl Template {
    pub(super) fn read(meta: Meta, top: &Cursor<'_>) -> Self {
        let template = top.at(&["spec", "template"]);
        Self {
            meta,
            labels: template.at(&["metadata", "labels"]).string_map(),
            annotations: template.at(&["metadata", "annotations"]).string_map(),
            spec: PodSpec::read(&template.field("spec")),
        }
    }
}

fn container(cursor: &Cursor<'_>) -> Container {
    let args = cursor.field("args");
    let env = cursor.field("env").list().into_iter().filter_map(|env| {
        let name = env.field("name").string()?.to_owned();
        let value = if env.field("valueFrom").is_absent() {
            EnvValue::Literal(env.field("value").string().unwrap_or_default().to_owned())
        } else {
            EnvValue::Elsewhere
        };
        Some((name, value))
    });
    Container {
        name: cursor.field("name").string().unwrap_or_default().to_owned(),
        args: (!args.is_absent()).then(|| {
            args.list()
                .iter()
                .filter_map(|a| a.string().map(str::to_owned))
                .collect()
        }),
        env: env.collect(),
        env_from: !cursor.field("envFrom").list().is_empty(),
        ports: cursor
            .field("ports")
            .list()
            .iter()
            .filter_map(container_port)
            .collect(),
    }
}

fn container_port(cursor: &Cursor<'_>) -> Option<ContainerPort> {
    let host_ip = cursor.field("hostIP").address().filter(|ip| !ip.is_unspecified());
    Some(ContainerPort {
        name: cursor.field("name").string().unwrap_or_default().to_owned(),
        protocol: service::protocol(cursor)?,
        container_port: cursor.field("containerPort").port()?,
        host_port: cursor.field("hostPort").optional_port(),
        host_ip,
    })
}

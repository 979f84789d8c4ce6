//! A site whose node belongs to a cluster, with the agent as the shipped DaemonSet starts it.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "helpers of tests: their panic is the report"
)]

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use xtask::cluster::container::{Container, Host, Program, Which};
use xtask::cluster::tools::Crds;
use xtask::cluster::{Cluster, objects};
use xtask::http::Answer;
use xtask::manifests::{self, ingress_policy};
use xtask::poll;
use xtask::site::{
    self, Client, NIC, NODE, NODE_PORT, NODE_V4, POD_PORT, POD_V4, POD_V6, Site, VIP_PORT, VIP_V4,
};

/// How long a change may take to show.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// The clients' IPv4 addresses.
pub(crate) const A: &str = site::CLIENT_V4[0];
pub(crate) const B: &str = site::CLIENT_V4[1];

/// The shipped DaemonSet.
const AGENT: Which<'_> = Which {
    namespace: "gwfilter-system",
    name: "gwfilter",
    container: "gwfilter",
};

/// The gateway's pod, as the site's manifest names it.
pub(crate) const POD: &str = "istio-ingressgateway-7d9c6b8f5-x2x9k";

/// A cluster of one node, with a gateway on it.
#[derive(Debug)]
pub(crate) struct Lab {
    pub(crate) cluster: Cluster,
    pub(crate) site: Site,
    disk: TempDir,
}

impl Lab {
    /// A cluster with Istio's CRDs and a gateway, and the base of `deploy/` applied as a user does it; no agent runs yet. As the
    /// quick start says, no source is exempt; and the packet log is on, as the walk-through wants it.
    pub(crate) fn new() -> Self {
        let lab = Self::bare();
        lab.deploy("deploy/base");
        lab.log_packets();
        lab
    }

    /// The same without gwfilter.
    pub(crate) fn bare() -> Self {
        let cluster = Cluster::start().expect("a cluster; this test needs root, and `cargo xtask setup`");
        let site = Site::new().expect("a site");
        cluster.join(&site.router, "to-control").expect("a cable");
        for crds in Crds::ALL {
            cluster.install(crds).expect("CRDs");
        }
        for namespace in ["istio-system", "foo"] {
            cluster.namespace(namespace).expect("a namespace");
        }
        cluster.put_manifest(&manifests::cluster()).expect("the gateway");
        let lab = Self {
            cluster,
            site,
            disk: tempfile::tempdir().expect("a disk"),
        };
        lab.endpoints(Some((NODE, POD)));
        lab.kubectl(&[
            "annotate",
            "service",
            "istio-ingressgateway",
            "-n",
            "istio-system",
            "gwfilter.io/never-drop=",
        ]);
        lab
    }

    /// `kubectl apply -k`, and what controllers would add to the namespace.
    pub(crate) fn deploy(&self, folder: &str) {
        let folder = xtask::paths::root().join(folder);
        self.kubectl(&["apply", "-k", &folder.display().to_string()]);
        self.cluster
            .furnish(AGENT.namespace)
            .expect("a ServiceAccount for pods");
    }

    /// Adds `--packet-log=all` to the DaemonSet.
    pub(crate) fn log_packets(&self) {
        self.flag("--packet-log=all");
    }

    /// Adds a flag to the DaemonSet.
    pub(crate) fn flag(&self, flag: &str) {
        let add = format!(
            r#"[{{"op": "add", "path": "/spec/template/spec/containers/0/args/-", "value": "{flag}"}}]"#
        );
        self.kubectl(&[
            "patch",
            "daemonset",
            "gwfilter",
            "-n",
            AGENT.namespace,
            "--type=json",
            "-p",
            &add,
        ]);
    }

    /// The node, as pods see it.
    pub(crate) fn host(&self) -> Host<'_> {
        Host {
            name: NODE,
            address: NODE_V4,
            namespace: &self.site.node,
            disk: self.disk.path(),
        }
    }

    /// Starts the agent as the DaemonSet says, and does not wait.
    pub(crate) fn launch(&self) -> Container {
        self.try_launch().expect("the agent's container")
    }

    /// The same, if the node can.
    pub(crate) fn try_launch(&self) -> anyhow::Result<Container> {
        self.cluster
            .run_daemonset_container(&self.host(), &AGENT, Program::Binary(binary()))
    }

    /// Starts the agent as the DaemonSet says, and waits until it is ready.
    pub(crate) fn start(&self) -> Container {
        let mut agent = self.launch();
        self.wait_ready(&mut agent);
        agent
    }

    /// Waits until the readiness probe is content.
    #[track_caller]
    pub(crate) fn wait_ready(&self, agent: &mut Container) {
        let mut last = Answer::Timeout;
        let ready = poll::until(SOON, || {
            assert_eq!(
                agent.process.status(),
                None,
                "the agent ended:\n{}",
                agent.process.tail()
            );
            last = agent.ready(&self.host()).expect("a probe");
            (last == Answer::Status(200)).then_some(())
        });
        assert!(ready.is_some(), "not ready ({last}):\n{}", agent.process.tail());
    }

    /// Writes the endpoint slices of the gateway's Service: one pod on a node, or none.
    pub(crate) fn endpoints(&self, pod: Option<(&str, &str)>) {
        for address in [POD_V4, POD_V6] {
            let address = address.parse().expect("an address");
            let mut endpoints = Vec::new();
            if let Some((node, name)) = pod {
                endpoints.push((address, node, name));
            }
            let mut slice = objects::endpoint_slice(
                "istio-system",
                "istio-ingressgateway",
                ("http2", POD_PORT),
                &endpoints,
            );
            if address.is_ipv6() {
                slice["addressType"] = "IPv6".into();
                slice["metadata"]["name"] = "istio-ingressgateway-ipv6".into();
            }
            self.cluster.put(&slice).expect("a slice");
        }
    }

    /// `kubectl ARGS…` that has to succeed.
    #[track_caller]
    pub(crate) fn kubectl(&self, args: &[&str]) -> String {
        match self.cluster.kubectl(args) {
            Ok(said) => said,
            Err(error) => panic!("{error:#}"),
        }
    }

    /// `kubectl apply -f -` of the page's policy.
    #[track_caller]
    pub(crate) fn policy(&self, action: &str, blocks: &[&str]) {
        self.apply(&ingress_policy(action, "ipBlocks", blocks));
    }

    /// `kubectl apply -f -` that has to succeed.
    #[track_caller]
    pub(crate) fn apply(&self, yaml: &str) {
        if let Err(error) = self.cluster.apply(yaml) {
            panic!("{error:#}");
        }
    }

    /// Deletes the page's policy.
    #[track_caller]
    pub(crate) fn delete_policy(&self) {
        self.kubectl(&[
            "delete",
            "authorizationpolicy",
            "ingress-policy",
            "-n",
            "istio-system",
        ]);
    }

    /// `client` gets a 200 at `to`: soon, and then again.
    #[track_caller]
    pub(crate) fn let_in(&self, agent: &Container, client: Client, to: SocketAddr) {
        self.sees(agent, client, to, "200", |answer| *answer == Answer::Status(200));
    }

    /// `client` gets nothing at `to`: soon, and then again.
    #[track_caller]
    pub(crate) fn refused(&self, agent: &Container, client: Client, to: SocketAddr) {
        self.sees(agent, client, to, "no answer", |answer| {
            *answer == Answer::Timeout
        });
    }

    #[track_caller]
    fn sees(
        &self,
        agent: &Container,
        client: Client,
        to: SocketAddr,
        what: &str,
        wanted: impl Fn(&Answer) -> bool,
    ) {
        for _ in 0..2 {
            let answer = self.site.get_until(client, to, SOON, &wanted);
            assert!(
                wanted(&answer),
                "{client:?} at {to}: wanted {what}, saw {answer}; agent:\n{}",
                agent.process.tail()
            );
        }
    }

    /// Cuts every node off from the API server, silently.
    pub(crate) fn cut(&self) {
        let rules = format!(
            "table ip cut {{ chain forward {{
               type filter hook forward priority 0
               ip daddr {0} drop
               ip saddr {0} drop
             }}
             }}",
            xtask::cluster::API_V4
        );
        self.site.router.nft(&rules).expect("cut");
    }

    /// Cuts the connections that the node has to the API server now, silently; how many.
    pub(crate) fn cut_connections(&self) -> usize {
        let server = xtask::cluster::API_V4;
        let lines = self
            .site
            .node
            .run("ss", &["-Htn", "state", "established", "dst", server])
            .expect("a list of connections");
        let port = |line: &str| {
            let local = line.split_whitespace().nth(2)?;
            local.rsplit_once(':').map(|(_, port)| port.to_owned())
        };
        let ports: Vec<String> = lines.lines().filter_map(port).collect();
        let set = ports.join(", ");
        let rules = format!(
            "table ip cut {{ chain forward {{
               type filter hook forward priority 0
               ip daddr {server} tcp sport {{ {set} }} drop
               ip saddr {server} tcp dport {{ {set} }} drop
             }}
             }}"
        );
        self.site.router.nft(&rules).expect("cut");
        ports.len()
    }

    /// Mends what [`Lab::cut`] cut.
    pub(crate) fn mend(&self) {
        self.site.router.nft("delete table ip cut").expect("mended");
    }

    /// `gwfilter unload` on the node; what it said.
    pub(crate) fn unload(&self) -> String {
        self.site
            .node
            .run(&binary().display().to_string(), &["unload"])
            .expect("unloaded")
    }

    /// `gwfilter status` on the node says so of the agent, and names the gateway and what is attached.
    #[track_caller]
    pub(crate) fn status(&self, agent: &str) {
        let state = self.host().disk.join("var/lib/gwfilter").display().to_string();
        let words = ["status", "-o", "json", "--state-dir", &state];
        let said = self.site.node.run(&binary().display().to_string(), &words);
        let said: Value = serde_json::from_str(&said.expect("a status")).expect("JSON");
        assert_eq!(said["agent"], agent, "{said}");
        assert_eq!(
            said["last"]["gateways"][0]["name"], "istio-system/istio-ingressgateway",
            "{said}"
        );
        let attached = said["attached"].as_array().map(Vec::len);
        assert_eq!(attached, Some(usize::from(agent == "running")), "{said}");
    }

    /// Whether the kernel shows a program at the node's card.
    pub(crate) fn attached(&self) -> bool {
        self.site
            .node
            .ip(&["-details", "link", "show", NIC])
            .expect("shown")
            .contains("prog/xdp")
    }

    /// The Events about an object, as (reason, message).
    pub(crate) fn events(&self, kind: &str, name: &str) -> Vec<(String, String)> {
        let list = self
            .cluster
            .get("/api/v1/namespaces/istio-system/events")
            .and_then(|answer| answer.granted())
            .expect("events");
        let text = |event: &Value, pointer: &str| {
            event
                .pointer(pointer)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        list.get("items")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter(|event| {
                text(event, "/involvedObject/kind") == kind && text(event, "/involvedObject/name") == name
            })
            .map(|event| (text(event, "/reason"), text(event, "/message")))
            .collect()
    }
}

/// The agent under test.
pub(crate) fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_gwfilter"))
}

pub(crate) fn to(address: &str, port: u16) -> SocketAddr {
    site::destination(address, port).expect("an address")
}

/// The load balancer's IPv4 address.
pub(crate) fn vip() -> SocketAddr {
    to(VIP_V4, VIP_PORT)
}

/// The node port.
pub(crate) fn node_port() -> SocketAddr {
    to(NODE_V4, NODE_PORT)
}

/// The pod's own address.
pub(crate) fn pod() -> SocketAddr {
    to(POD_V4, POD_PORT)
}

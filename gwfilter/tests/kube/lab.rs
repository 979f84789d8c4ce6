//! A site whose node belongs to a cluster, with the agent as the shipped DaemonSet starts it.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests: their panic is the report"
)]

use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;
use xtask::cluster::Cluster;
use xtask::cluster::container::{Container, Host, Program, Which};
use xtask::cluster::tools::Crds;
use xtask::manifests;
use xtask::site::{self, NODE, NODE_V4, Site};

/// How long a change may take to show.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// The first client's IPv4 address.
pub(crate) const A: &str = site::CLIENT_V4[0];

/// The shipped DaemonSet.
const AGENT: Which<'_> = Which {
    namespace: "gwfilter-system",
    name: "gwfilter",
    container: "gwfilter",
};

/// A cluster of one node, with a gateway on it.
#[derive(Debug)]
pub(crate) struct Lab {
    pub(crate) cluster: Cluster,
    pub(crate) site: Site,
    disk: TempDir,
}

impl Lab {
    /// A cluster with Istio's CRDs and a gateway, without gwfilter.
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
        Self {
            cluster,
            site,
            disk: tempfile::tempdir().expect("a disk"),
        }
    }

    /// `kubectl apply -k`, and what controllers would add to the namespace.
    pub(crate) fn deploy(&self, folder: &str) {
        let folder = xtask::paths::root().join(folder);
        self.kubectl(&["apply", "-k", &folder.display().to_string()]);
        self.cluster
            .furnish(AGENT.namespace)
            .expect("a ServiceAccount for pods");
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
        self.cluster
            .run_daemonset_container(&self.host(), &AGENT, Program::Binary(binary()))
            .expect("the agent's container")
    }

    /// `kubectl ARGS…` that has to succeed.
    #[track_caller]
    pub(crate) fn kubectl(&self, args: &[&str]) -> String {
        match self.cluster.kubectl(args) {
            Ok(said) => said,
            Err(error) => panic!("{error:#}"),
        }
    }
}

/// The agent under test.
fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_gwfilter"))
}

//! What the cluster's pages take for granted, and what the test does in the place of a registry, a kubelet and a load balancer.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;
use serde_json::json;
use xtask::balancer::{Balancer, Check, Sends, Way};
use xtask::cluster::container::{Container, Host, Program, Which};
use xtask::cluster::tools::{Crds, Tools};
use xtask::cluster::{Cluster, objects};
use xtask::http::{Answer, Server};
use xtask::process::Process;
use xtask::site::{
    self, BALANCER_V4, CLIENT_V4, NODE, NODE_PORT, NODE_V4, POD_PORT, POD_V4, Site, VIP_PORT, VIP_V4,
};
use xtask::{manifests, poll};

use crate::page::WALK;
use crate::shell::{Desk, Shell};

/// How long an agent may take to come or to go.
const SOON: Duration = Duration::from_secs(60);
/// Where clients come to the balancer.
const BALANCER_PORT: u16 = 8001;

/// The shipped DaemonSet.
const AGENT: Which<'_> = Which {
    namespace: "gwfilter-system",
    name: "gwfilter",
    container: "gwfilter",
};

/// What answers in the gateway's pod.
#[derive(Debug)]
enum Gateway {
    Plain { _server: Server },
    BehindProxy { _nginx: Process, _balancer: Balancer },
}

/// A cluster of one node with a gateway on it.
#[derive(Debug)]
pub(crate) struct Lab {
    agent: Option<Container>,
    gateway: Option<Gateway>,
    cluster: Cluster,
    site: Site,
    desk: Desk,
}

impl Lab {
    pub(crate) fn new() -> Result<Self> {
        let (cluster, site) = (Cluster::start()?, Site::without_gateway()?);
        cluster.join(&site.router, "to-control")?;
        for crds in Crds::ALL {
            cluster.install(crds)?;
        }
        for namespace in ["istio-system", "foo"] {
            cluster.namespace(namespace)?;
        }
        cluster.put_manifest(&manifests::cluster())?;
        let endpoints = [(POD_V4.parse()?, NODE, "istio-ingressgateway-7d9c6b8f5-x2x9k")];
        cluster.put(&objects::endpoint_slice(
            "istio-system",
            "istio-ingressgateway",
            ("http2", POD_PORT),
            &endpoints,
        ))?;
        let server = Server::start(&site.pod, site::destination(POD_V4, POD_PORT)?)?;
        let lab = Self {
            agent: None,
            gateway: Some(Gateway::Plain { _server: server }),
            cluster,
            site,
            desk: Desk::new()?,
        };
        fs::copy(lab.cluster.admin_kubeconfig(), lab.desk.file("kubeconfig")).context("a kubeconfig")?;
        Ok(lab)
    }

    /// Follows a page, in a shell on the administrator's machine.
    pub(crate) fn follow(&mut self, page: &str) -> Result<()> {
        if page == WALK {
            let base = self.desk.at().join("deploy/base").display().to_string();
            self.cluster.kubectl(&["apply", "-k", &base])?;
        }
        let tools = Tools::find()?;
        let mut shell = Shell::start(&self.cluster.control, &self.desk, &[tools.folder()])?;
        shell.follow(page, &mut |step| self.provide(step))
    }

    fn provide(&mut self, step: &str) -> Result<String> {
        match step {
            "cluster-image" => Ok(String::new()),
            "cluster-rollout" | "cluster-rollout-again" => self.rollout(),
            "cluster-client" => Ok(self.client()),
            "cluster-gone" => {
                self.end_agent()?;
                self.finish_namespace().map(|()| String::new())
            }
            "walk-begin" => Ok(self.rollout()? + &self.client()),
            "walk-balancer" => self.balancer(),
            _ => bail!("nobody knows what to provide for it"),
        }
    }

    /// Ends the agent as the kubelet does, with its pod.
    fn end_agent(&mut self) -> Result<()> {
        let Some(mut agent) = self.agent.take() else {
            return Ok(());
        };
        agent.process.signal(Signal::SIGTERM)?;
        agent.process.wait_exit(SOON)?;
        self.cluster.delete(&agent.pod)
    }

    /// (Re)starts the agent as the DaemonSet says, and waits until it is ready.
    fn rollout(&mut self) -> Result<String> {
        self.end_agent()?;
        self.cluster.furnish(AGENT.namespace)?;
        let disk = self.desk.file("disk");
        let host = Host {
            name: NODE,
            address: NODE_V4,
            namespace: &self.site.node,
            disk: &disk,
        };
        let program = Program::Binary(env!("CARGO_BIN_EXE_gwfilter").as_ref());
        let mut agent = self.cluster.run_daemonset_container(&host, &AGENT, program)?;
        let ready = poll::until(SOON, || {
            let ended = agent.process.status().is_some();
            let ready = matches!(agent.ready(&host), Ok(Answer::Status(200)));
            (ready || ended).then_some(ready)
        });
        if ready != Some(true) {
            bail!("the agent is not ready:\n{}", agent.process.tail());
        }
        let (pid, log) = (agent.process.pid(), agent.process.log_path());
        self.agent = Some(agent);
        Ok(format!(
            "agent_log() {{ cat {}; }}\n\
             on_node() {{ nsenter --target {pid} --net --mount -- /\"$@\"; }}\n\
             NODE={NODE}\n",
            log.display()
        ))
    }

    /// Asks the gateway at the load balancer's address.
    fn client(&self) -> String {
        let client = self.site.client_a.tid();
        format!(
            "get() {{ nsenter --target {client} --net curl -sS -m 2 -o /dev/null -w '%{{http_code}}\\n' \
             http://{VIP_V4}:{VIP_PORT}/headers 2>&1; }}\n\
             CLIENT_IP={}\n",
            CLIENT_V4[0]
        )
    }

    /// From here on the gateway reads PROXY headers, and a balancer writes them.
    fn balancer(&mut self) -> Result<String> {
        self.gateway = None;
        let config = self.desk.file("nginx.conf");
        let text = format!(
            "daemon off; user root; pid nginx.pid; events {{}}\n\
             http {{ access_log off; server {{ listen {POD_V4}:{POD_PORT} proxy_protocol; return 200 ok; }} }}\n"
        );
        fs::write(&config, text).context("writing nginx's configuration")?;
        let mut nginx = Command::new("nginx");
        nginx.args(["-e", "stderr", "-c"]).arg(&config);
        nginx.arg("-p").arg(self.desk.file("tmp"));
        let nginx = Process::spawn(&self.site.pod, "nginx", nginx)?;
        let way = Way {
            at: site::destination(BALANCER_V4, BALANCER_PORT)?,
            to: site::destination(NODE_V4, NODE_PORT)?,
            sends: Sends::V1,
            check: Check::Never,
        };
        let balancer = Balancer::haproxy(&self.site.router, &[way])?;
        self.gateway = Some(Gateway::BehindProxy {
            _nginx: nginx,
            _balancer: balancer,
        });
        let client = self.site.client_a.tid();
        Ok(format!(
            "get_through() {{ nsenter --target {client} --net curl -sS -m 3 -o /dev/null -w '%{{http_code}}\\n' \
             http://{BALANCER_V4}:{BALANCER_PORT}/headers 2>&1; }}\n\
             until get_through | grep 200; do sleep 0.1; done\n"
        ))
    }

    /// Lets the deleted namespace go, as its controller does when it is empty.
    fn finish_namespace(&self) -> Result<()> {
        let path = format!("/api/v1/namespaces/{}", AGENT.namespace);
        let mut namespace = self.cluster.get(&path)?.granted()?;
        if let Some(spec) = namespace.pointer_mut("/spec") {
            *spec = json!({"finalizers": []});
        }
        self.cluster
            .request(
                "PUT",
                &format!("{path}/finalize"),
                "application/json",
                &namespace.to_string(),
            )?
            .granted()
            .map(|_| ())
    }
}

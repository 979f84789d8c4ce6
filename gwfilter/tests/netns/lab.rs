//! A site with an agent on its node, and what tests say about it.

#![expect(clippy::expect_used, reason = "helpers of tests: their panic is the report")]

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use xtask::http::Answer;
use xtask::manifests::ingress_policy;
use xtask::process::Process;
use xtask::site::{
    self, Client, NIC, NODE_PORT, NODE_V4, NODE_V6, POD_PORT, POD_V4, POD_V6, Site, VIP_PORT, VIP_V4, VIP_V6,
};

/// How long a change may take to show.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// The file that holds the policy under test.
pub(crate) const POLICY: &str = "ingress-policy.yaml";

/// Addresses of both clients, both families.
pub(crate) const A: [&str; 2] = [site::CLIENT_V4[0], site::CLIENT_V6[0]];
pub(crate) const B: [&str; 2] = [site::CLIENT_V4[1], site::CLIENT_V6[1]];
/// Everybody.
pub(crate) const ALL: [&str; 2] = ["0.0.0.0/0", "::/0"];

/// A site and, usually, an agent.
#[derive(Debug)]
pub(crate) struct Lab {
    pub(crate) site: Site,
    pub(crate) agent: Process,
}

impl Lab {
    /// A site with one policy, and an agent that enforces it.
    pub(crate) fn with(action: &str, field: &str, blocks: &[&str], flags: &[&str]) -> Self {
        let site = Site::new().expect("a site; this test needs root, and `cargo xtask setup`");
        site.write(POLICY, &ingress_policy(action, field, blocks))
            .expect("a policy");
        Self::on(site, flags)
    }

    /// An agent on a site that is ready.
    pub(crate) fn on(site: Site, flags: &[&str]) -> Self {
        let agent = start(&site, flags);
        Self { site, agent }
    }

    /// Writes another version of the policy.
    pub(crate) fn policy(&self, action: &str, field: &str, blocks: &[&str]) {
        self.site
            .write(POLICY, &ingress_policy(action, field, blocks))
            .expect("a policy");
    }

    /// `client` gets a 200 at `to`: soon, and then again.
    #[track_caller]
    pub(crate) fn let_in(&self, client: Client, to: SocketAddr) {
        self.sees(client, to, "200", |answer| *answer == Answer::Status(200));
    }

    /// `client` gets nothing at `to`: soon, and then again.
    #[track_caller]
    pub(crate) fn refused(&self, client: Client, to: SocketAddr) {
        self.sees(client, to, "no answer", |answer| *answer == Answer::Timeout);
    }

    #[track_caller]
    fn sees(&self, client: Client, to: SocketAddr, what: &str, wanted: impl Fn(&Answer) -> bool) {
        let answer = self.site.get_until(client, to, SOON, &wanted);
        assert!(
            wanted(&answer),
            "{client:?} at {to}: wanted {what}, saw {answer}; agent:\n{}",
            self.agent.tail()
        );
        let again = self.site.get(client, to);
        assert!(
            wanted(&again),
            "{client:?} at {to}: {what}, and then {again}; agent:\n{}",
            self.agent.tail()
        );
    }

    /// How many generations the agent says it brought into force.
    pub(crate) fn generations(&self) -> usize {
        self.agent.log().matches("generation in force").count()
    }
}

/// Starts an agent on the site's node and waits until it serves.
pub(crate) fn start(site: &Site, flags: &[&str]) -> Process {
    let mut agent = launch(site, &[&["--interface", NIC], flags].concat());
    agent.wait_line("agent runs", SOON).expect("a running agent");
    agent
}

/// Starts an agent with just these flags, and does not wait.
pub(crate) fn launch(site: &Site, flags: &[&str]) -> Process {
    let from = site.manifests().display().to_string();
    let mut arguments = vec!["run", "--from", &from, "--packet-log", "all"];
    if !flags.contains(&"--counters-every") {
        arguments.extend(["--counters-every", "1s"]);
    }
    arguments.extend(flags);
    site.start("gwfilter run", binary(), &arguments).expect("started")
}

/// The agent under test.
pub(crate) fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_gwfilter"))
}

/// `gwfilter unload` on the node; what it said.
pub(crate) fn unload(site: &Site) -> String {
    site.node
        .run(&binary().display().to_string(), &["unload"])
        .expect("unloaded")
}

pub(crate) fn to(address: &str, port: u16) -> SocketAddr {
    site::destination(address, port).expect("an address")
}

/// The load balancer's IPv4 address.
pub(crate) fn vip() -> SocketAddr {
    to(VIP_V4, VIP_PORT)
}

/// Every way to the gateway: load balancer, node port, routed pod; both families.
pub(crate) fn ways() -> [SocketAddr; 6] {
    [
        to(VIP_V4, VIP_PORT),
        to(VIP_V6, VIP_PORT),
        to(NODE_V4, NODE_PORT),
        to(NODE_V6, NODE_PORT),
        to(POD_V4, POD_PORT),
        to(POD_V6, POD_PORT),
    ]
}

/// What `ip` shows of a device of the node.
pub(crate) fn link(site: &Site, device: &str) -> String {
    site.node
        .ip(&["-details", "link", "show", device])
        .expect("shown")
}

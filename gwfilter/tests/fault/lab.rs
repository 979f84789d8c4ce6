//! A site with two gateways, an agent on its node, and what may be let in there.

#![expect(clippy::expect_used, reason = "helpers of tests: their panic is the report")]

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use xtask::manifests::ingress_policy;
use xtask::poll;
use xtask::process::Process;
use xtask::site::{
    self, CLIENT_V4, CLIENT_V6, Client, NIC, NODE_PORT, NODE_V4, POD_PORT, POD_V4, Site, VIP_PORT, VIP_V4,
    VIP_V6,
};

use crate::shots::{self, Shot, Volley, breaks};
use crate::strace;

/// How long a change may take to show, or an agent to start, on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(40);

/// Not while a test runs.
pub(crate) const SELDOM: &str = "1h";

/// The address of the second gateway's load balancer.
const SECOND: &str = "203.0.113.81";
/// An address that the node has at times.
const EXTRA: &str = "10.0.7.7";

/// What the user and the machine want.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct World {
    /// The policy refuses both clients, not only the first.
    pub(crate) tight: bool,
    /// There is a second gateway, with a policy of its own.
    pub(crate) second: bool,
    /// The node has an address more.
    pub(crate) extra: bool,
}

/// What changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Tightened,
    GatewayAdded,
    AddressAdded,
    Loosened,
    GatewayRemoved,
    AddressRemoved,
}

impl Change {
    /// One round: it ends as it began.
    pub(crate) const ROUND: [Self; 6] = [
        Self::Tightened,
        Self::GatewayAdded,
        Self::AddressAdded,
        Self::Loosened,
        Self::GatewayRemoved,
        Self::AddressRemoved,
    ];
}

impl World {
    fn after(mut self, change: Change) -> Self {
        match change {
            Change::Tightened => self.tight = true,
            Change::Loosened => self.tight = false,
            Change::GatewayAdded => self.second = true,
            Change::GatewayRemoved => self.second = false,
            Change::AddressAdded => self.extra = true,
            Change::AddressRemoved => self.extra = false,
        }
        self
    }

    /// Who is let in where, in the order of [`shots`].
    pub(crate) fn volley(self) -> Volley {
        let (first, extra) = ([false, !self.tight], [!self.extra, !(self.extra && self.tight)]);
        [first, first, [!self.second, true], extra].concat()
    }

    /// The same with the first gateway left alone: what it refused must not stay refused for longer than the user wants.
    fn withdrawn(self) -> Volley {
        [[true; 2], [true; 2], [!self.second, true], [true; 2]].concat()
    }
}

fn to(address: &str, port: u16) -> SocketAddr {
    site::destination(address, port).expect("an address")
}

/// Both clients at: the first gateway in both families, the second one, the node's further address.
pub(crate) fn shots() -> Vec<Shot> {
    let places = [
        to(VIP_V4, VIP_PORT),
        to(VIP_V6, VIP_PORT),
        to(SECOND, VIP_PORT),
        to(EXTRA, NODE_PORT),
    ];
    let both = |to| Client::ALL.map(|client| Shot { client, to });
    places.into_iter().flat_map(both).collect()
}

/// A site, without an agent.
pub(crate) fn site() -> Site {
    let site = Site::new().expect("a site; this test needs root, and `cargo xtask setup`");
    for address in [SECOND, EXTRA] {
        site.router
            .route(&format!("{address}/32"), NODE_V4)
            .expect("a route");
    }
    let rules = format!(
        "table ip more {{ chain prerouting {{ type nat hook prerouting priority dstnat; \
         ip daddr {SECOND} tcp dport {VIP_PORT} dnat to {POD_V4}:{POD_PORT}; \
         ip daddr {EXTRA} tcp dport {NODE_PORT} dnat to {POD_V4}:{POD_PORT}; }}; }}"
    );
    site.node.nft(&rules).expect("rules");
    bring(&site, World::default(), Change::Loosened);
    site
}

/// Makes the change happen.
fn bring(site: &Site, after: World, change: Change) {
    let (a, b) = ([CLIENT_V4[0], CLIENT_V6[0]], [CLIENT_V4[1], CLIENT_V6[1]]);
    let extra = |verb: &str| {
        let address = format!("{EXTRA}/32");
        site.node
            .ip(&["address", verb, &address, "dev", NIC])
            .expect("an address");
    };
    match change {
        Change::Tightened | Change::Loosened => {
            let blocks = if after.tight { [a, b].concat() } else { a.to_vec() };
            let policy = ingress_policy("DENY", "ipBlocks", &blocks);
            site.write("ingress-policy.yaml", &policy).expect("a policy");
        }
        Change::GatewayAdded => site.write("second.yaml", &second()).expect("a gateway"),
        Change::GatewayRemoved => site.delete("second.yaml").expect("deleted"),
        Change::AddressAdded => extra("add"),
        Change::AddressRemoved => extra("del"),
    }
}

fn second() -> String {
    let policy = ingress_policy("DENY", "ipBlocks", &[CLIENT_V4[0]])
        .replace("name: ingress-policy", "name: second-policy")
        .replace("istio-ingressgateway", "second");
    format!(
        "\
apiVersion: v1
kind: Service
metadata: {{name: second, namespace: istio-system}}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  selector: {{app: second, istio: second}}
  ports: [{{name: http, protocol: TCP, port: {VIP_PORT}, targetPort: {POD_PORT}, nodePort: 30099}}]
status: {{loadBalancer: {{ingress: [{{ip: {SECOND}}}]}}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: second-0, namespace: istio-system, labels: {{app: second, istio: second}}}}
spec:
  nodeName: node-1
  containers: [{{name: istio-proxy, args: [proxy, router], ports: [{{containerPort: {POD_PORT}, protocol: TCP}}]}}]
status: {{phase: Running, hostIP: {NODE_V4}, podIP: 10.244.1.9, conditions: [{{type: Ready, status: \"True\"}}]}}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: second, namespace: istio-system}}
spec:
  selector: {{istio: second}}
  servers: [{{port: {{number: {VIP_PORT}, name: http, protocol: HTTP}}, hosts: [\"*\"]}}]
---
{policy}"
    )
}

/// The agent under test.
pub(crate) fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_gwfilter"))
}

/// Its arguments on a site. `looks`: how often it looks at counters and the network without a reason; else nothing happens by itself while
/// a test counts calls.
fn arguments(site: &Site, looks: &str) -> Vec<String> {
    let from = site.manifests().display().to_string();
    let words = [
        "run",
        "--from",
        &from,
        "--interface",
        NIC,
        "--drain",
        "0",
        "--counters-every",
        looks,
        "--verify-every",
        SELDOM,
    ];
    words.map(str::to_owned).to_vec()
}

/// Starts an agent, and does not wait.
pub(crate) fn launch(site: &Site, looks: &str) -> Process {
    let mut command = Command::new(binary());
    command.args(arguments(site, looks));
    Process::spawn(&site.node, "gwfilter run", command).expect("started")
}

/// The same under a tracer that writes to `log`.
pub(crate) fn launch_traced(site: &Site, calls: &str, fault: Option<&strace::Fault>, log: &Path) -> Process {
    let mut command = Command::new("strace");
    command.args(strace::words(calls, fault, &log.display().to_string()));
    command.arg(binary()).args(arguments(site, SELDOM));
    Process::spawn(&site.node, "gwfilter run", command).expect("strace; `cargo xtask setup` installs it")
}

/// A site, its agent, and what is wanted of it now.
#[derive(Debug)]
pub(crate) struct Lab {
    pub(crate) site: Site,
    pub(crate) agent: Process,
    pub(crate) world: World,
    shots: Vec<Shot>,
    seen: Vec<Volley>,
    chain: Vec<Volley>,
}

impl Lab {
    /// A site with an agent that enforces.
    pub(crate) fn new() -> Self {
        Self::looking(SELDOM)
    }

    /// The same, and so often it looks at counters and the network without a reason.
    pub(crate) fn looking(looks: &str) -> Self {
        let site = site();
        let mut agent = launch(&site, looks);
        agent.wait_line("agent runs", SOON).expect("a running agent");
        let mut lab = Self {
            site,
            agent,
            world: World::default(),
            shots: shots(),
            seen: Vec::new(),
            chain: vec![World::default().volley()],
        };
        lab.settle("the agent has started");
        lab
    }

    /// Fires once, and holds that all of it since the last change is one policy after the other.
    #[track_caller]
    pub(crate) fn look(&mut self, when: &str) -> Volley {
        let volley = shots::fire(&self.site, &self.shots);
        self.seen.push(volley.clone());
        let broken = breaks(&self.seen, &self.chain);
        assert_eq!(
            broken,
            None,
            "{when}: enforced was a mix, or nothing\nseen: {:?}\nmay be, in this order: {:?}\nagent:\n{}",
            self.seen,
            self.chain,
            self.agent.tail()
        );
        volley
    }

    /// Makes a change happen.
    pub(crate) fn change(&mut self, change: Change) {
        let (old, new) = (self.world, self.world.after(change));
        self.chain = vec![old.volley(), new.volley()];
        if change == Change::Loosened {
            self.chain.insert(1, old.withdrawn());
        }
        self.seen.clear();
        bring(&self.site, new, change);
        self.world = new;
    }

    /// Waits until what is wanted is enforced, and the agent still lives.
    #[track_caller]
    pub(crate) fn settle(&mut self, when: &str) {
        let wanted = self.world.volley();
        let settled = poll::until(SOON, || {
            let twice = [self.look(when), self.look(when)];
            (twice.iter().all(|volley| *volley == wanted) && !self.tries_again()).then_some(())
        });
        assert!(
            settled.is_some(),
            "{when}: the new policy is not in force\nwanted: {wanted:?}\nseen: {:?}\nagent:\n{}",
            self.seen.last(),
            self.agent.tail()
        );
        assert_eq!(
            self.agent.status(),
            None,
            "{when}: the agent ended:\n{}",
            self.agent.tail()
        );
    }

    /// Whether the agent has something to repeat. What is withdrawn meanwhile may look like what is wanted.
    fn tries_again(&self) -> bool {
        let log = self.agent.log();
        log.rfind("the new tables are not in force") > log.rfind("tables can be written again")
    }

    /// Nothing changes from here on.
    pub(crate) fn steady(&mut self) {
        self.chain = vec![self.world.volley()];
        self.seen.clear();
    }
}

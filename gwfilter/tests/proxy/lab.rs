//! Clients, a load balancer in the router, a node with an agent, and Envoy in the pod.

#![expect(clippy::expect_used, reason = "helpers of tests: their panic is the report")]

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use xtask::balancer::{Balancer, Check, Sends, Way};
use xtask::gateway::{Gateway, Listener, Serves};
use xtask::http::Answer;
use xtask::manifests::{cluster_with_proxy_protocol, ingress_policy};
use xtask::netns::Namespace;
use xtask::poll;
use xtask::process::Process;
use xtask::site::{
    self, BALANCER_V4, BALANCER_V6, CLIENT_V4, CLIENT_V6, Client, NIC, NODE_PORT, NODE_V4, NODE_V6, POD_PORT,
    POD_V4, POD_V6, Site,
};

/// How long a change may take to show.
pub(crate) const SOON: Duration = Duration::from_secs(20);
/// The file of the policy under test.
pub(crate) const POLICY: &str = "ingress-policy.yaml";
/// Addresses of both clients, both families.
pub(crate) const A: [&str; 2] = [CLIENT_V4[0], CLIENT_V6[0]];
pub(crate) const B: [&str; 2] = [CLIENT_V4[1], CLIENT_V6[1]];

pub(crate) struct Lab {
    pub(crate) site: Site,
    pub(crate) gateway: Gateway,
    pub(crate) agent: Process,
}

/// The Envoy of most tests: it needs a header, enforces nothing, and serves.
pub(crate) fn listeners(serves: &Serves, proxy_protocol: bool) -> Vec<Listener> {
    [POD_V4, POD_V6]
        .into_iter()
        .map(|pod| Listener {
            at: to(pod, POD_PORT),
            proxy_protocol,
            policy: None,
            serves: serves.clone(),
        })
        .collect()
}

impl Lab {
    /// A gateway in PROXY mode with one policy in force at the node.
    pub(crate) fn with(action: &str, field: &str, blocks: &[&str], flags: &[&str]) -> Self {
        Self::serving(&listeners(&Serves::Http, true), action, field, blocks, flags)
    }

    pub(crate) fn serving(
        listeners: &[Listener],
        action: &str,
        field: &str,
        blocks: &[&str],
        flags: &[&str],
    ) -> Self {
        let site = Site::without_gateway().expect("a site; this test needs root, and `cargo xtask setup`");
        site.write("cluster.yaml", &cluster_with_proxy_protocol())
            .expect("objects");
        site.write(POLICY, &ingress_policy(action, field, blocks))
            .expect("a policy");
        Self::on(site, listeners, flags)
    }

    /// On a site whose objects are written.
    pub(crate) fn on(site: Site, listeners: &[Listener], flags: &[&str]) -> Self {
        let gateway = Gateway::start(&site.pod, listeners).expect("Envoy");
        let agent = start(&site, flags);
        Self { site, gateway, agent }
    }

    /// haproxy in the router: one way for each of `sends` and family.
    pub(crate) fn haproxy(&self, sends: &[Sends], check: Check) -> (Balancer, Vec<Way>) {
        let ways = ways(sends, check);
        let balancer = Balancer::haproxy(&self.site.router, &ways).expect("haproxy");
        (balancer, ways)
    }

    /// nginx in the router.
    pub(crate) fn nginx(&self) -> (Balancer, Vec<Way>) {
        let ways = ways(&[Sends::V1], Check::Never);
        let balancer = Balancer::nginx(&self.site.router, &ways).expect("nginx");
        (balancer, ways)
    }

    /// `client` gets a 200 by `way`: soon, and then again.
    #[track_caller]
    pub(crate) fn let_in(&self, client: Client, at: SocketAddr) {
        self.sees(client, at, "200", |answer| *answer == Answer::Status(200));
    }

    /// `client` is cut off by `way`: soon, and then again.
    #[track_caller]
    pub(crate) fn cut_off(&self, client: Client, at: SocketAddr) {
        self.sees(client, at, "a reset", |answer| *answer == Answer::Reset);
    }

    #[track_caller]
    pub(crate) fn sees(&self, client: Client, at: SocketAddr, what: &str, wanted: impl Fn(&Answer) -> bool) {
        let answer = self.site.get_until(client, at, SOON, &wanted);
        assert!(
            wanted(&answer),
            "{client:?} at {at}: wanted {what}, saw {answer}; agent:\n{}\nEnvoy:\n{}",
            self.agent.tail(),
            self.gateway.tail()
        );
        let again = self.site.get(client, at);
        assert!(
            wanted(&again),
            "{client:?} at {at}: {what}, and then {again}; agent:\n{}",
            self.agent.tail()
        );
    }

    /// Waits until the agent logged a packet with this reason `times` times.
    #[track_caller]
    pub(crate) fn logged(&mut self, reason: &str, times: usize) {
        let needle = format!("reason: {reason}");
        self.agent
            .wait_log(reason, SOON, |log| {
                (log.matches(&needle).count() >= times).then_some(())
            })
            .expect("logged");
    }

    /// How many generations the agent says it brought into force.
    pub(crate) fn generations(&self) -> usize {
        self.agent.log().matches("generation in force").count()
    }

    /// Writes another version of the policy, and waits until it is in force.
    #[track_caller]
    pub(crate) fn policy(&mut self, action: &str, field: &str, blocks: &[&str]) {
        let before = self.generations();
        self.site
            .write(POLICY, &ingress_policy(action, field, blocks))
            .expect("a policy");
        let after = poll::until(SOON, || (self.generations() > before).then_some(()));
        assert!(
            after.is_some(),
            "no new generation; agent:\n{}",
            self.agent.tail()
        );
    }
}

/// One way for each of `sends` and family.
pub(crate) fn ways(sends: &[Sends], check: Check) -> Vec<Way> {
    let mut ways = Vec::new();
    for (port, sends) in (8001..).zip(sends) {
        for (balancer, node) in [(BALANCER_V4, NODE_V4), (BALANCER_V6, NODE_V6)] {
            ways.push(Way {
                at: to(balancer, port),
                to: to(node, NODE_PORT),
                sends: *sends,
                check,
            });
        }
    }
    ways
}

/// TCP connections to the gateway's port that are established, in the pod.
pub(crate) fn established(site: &Site) -> usize {
    site.pod.enter(established_here).expect("entered")
}

/// The same, of a thread that is in the pod.
pub(crate) fn established_here() -> usize {
    // Columns of /proc/net/tcp: number, local address, remote address, state (01: established).
    let local = format!(":{POD_PORT:04X} ");
    let files = ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"];
    let text = files
        .map(|path| std::fs::read_to_string(path).unwrap_or_default())
        .concat();
    text.lines()
        .filter(|line| {
            let mut words = line.split_whitespace().skip(1);
            let at = words
                .next()
                .is_some_and(|word| format!("{word} ").ends_with(&local));
            at && words.nth(1) == Some("01")
        })
        .count()
}

/// Begins to count the TCP segments that the node sends on to the pod.
pub(crate) fn count_to_pod(site: &Site) {
    site.node
        .nft(
            "table inet seen { counter to-pod {}; chain forward { type filter hook forward priority 100; \
             oifname \"pods\" meta l4proto tcp counter name to-pod; }; }",
        )
        .expect("rules");
}

/// How many there were.
pub(crate) fn counted_to_pod(site: &Site) -> u64 {
    let listed = site
        .node
        .run("nft", &["list", "counter", "inet", "seen", "to-pod"])
        .expect("a counter");
    let mut words = listed.split_whitespace().skip_while(|word| *word != "packets");
    words.nth(1).and_then(|word| word.parse().ok()).expect("a number")
}

/// A counter of a namespace's TCP (`Tcp:` in `/proc/net/snmp`).
pub(crate) fn tcp_counter(namespace: &Namespace, name: &str) -> u64 {
    counter(namespace, "snmp", "Tcp: ", name)
}

/// A counter of a namespace's IPv4 (`Ip:` in `/proc/net/snmp`).
pub(crate) fn ip_counter(namespace: &Namespace, name: &str) -> u64 {
    counter(namespace, "snmp", "Ip: ", name)
}

/// A counter of a namespace's TCP beyond the standard (`TcpExt:` in `/proc/net/netstat`).
pub(crate) fn tcp_extension(namespace: &Namespace, name: &str) -> u64 {
    counter(namespace, "netstat", "TcpExt: ", name)
}

fn counter(namespace: &Namespace, file: &str, kind: &str, name: &str) -> u64 {
    let text = namespace
        .enter(|| std::fs::read_to_string(format!("/proc/thread-self/net/{file}")))
        .expect("entered")
        .expect("read");
    let mut lines = text.lines().filter(|line| line.starts_with(kind));
    let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
    let column = names
        .split(' ')
        .position(|n| n == name)
        .expect("a counter of this name");
    values
        .split(' ')
        .nth(column)
        .and_then(|v| v.parse().ok())
        .expect("a number")
}

/// The conntrack entries of a namespace that have all of `words`.
pub(crate) fn tracked(namespace: &Namespace, words: &[&str]) -> Vec<String> {
    let text = namespace
        .enter(|| std::fs::read_to_string("/proc/thread-self/net/nf_conntrack"))
        .expect("entered")
        .expect("read; the kernel tracks connections");
    text.lines()
        .filter(|line| words.iter().all(|word| line.contains(word)))
        .map(ToOwned::to_owned)
        .collect()
}

/// How long `work` takes.
pub(crate) fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let began = Instant::now();
    let done = work();
    (done, began.elapsed())
}

/// The middle one.
pub(crate) fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().expect("a time")
}

/// Starts an agent on the site's node and waits until it serves.
pub(crate) fn start(site: &Site, flags: &[&str]) -> Process {
    let from = site.manifests().display().to_string();
    let arguments = [
        &[
            "run",
            "--from",
            &from,
            "--interface",
            NIC,
            "--packet-log",
            "all",
            "--counters-every",
            "1s",
        ],
        flags,
    ]
    .concat();
    let binary = Path::new(env!("CARGO_BIN_EXE_gwfilter"));
    let mut agent = site.start("gwfilter run", binary, &arguments).expect("started");
    agent.wait_line("agent runs", SOON).expect("a running agent");
    agent
}

pub(crate) fn to(address: &str, port: u16) -> SocketAddr {
    site::destination(address, port).expect("an address")
}

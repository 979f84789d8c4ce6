//! The demo's second part: a load balancer in front that writes PROXY headers (haproxy), and a real Envoy as the gateway that reads them.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use xtask::balancer::{Balancer, Check, Sends, Way};
use xtask::curl::Curl;
use xtask::gateway::{Gateway, Listener, Serves};
use xtask::manifests::{cluster_with_proxy_protocol, ingress_policy};
use xtask::netns::Namespace;
use xtask::poll;
use xtask::process::Process;
use xtask::site::{
    self, BALANCER_V4, CLIENT_V4, Client, NIC, NODE, NODE_PORT, NODE_V4, PEER_V4, POD_PORT, POD_V4, Site,
};

use super::{SOON, hook, start};
use crate::run::say;

const POLICY: &str = "ingress-policy.yaml";
/// Where Envoy ends TLS, behind the listener that passes it through.
const BACKEND_PORT: u16 = 9443;
/// What the client's end must not take longer than, once the balancer has its bytes.
const AT_ONCE: Duration = Duration::from_secs(2);
/// Connections before a change live on this long, as in Envoy; the demo has none.
const PAUSE: Duration = Duration::from_millis(200);

/// The page of haproxy's ways: port, what it writes.
const WAYS: [(u16, Sends, &str); 2] = [
    (8001, Sends::V1, "send-proxy"),
    (8002, Sends::V2, "send-proxy-v2"),
];

pub(super) fn second_part(binary: &Path) -> Result<()> {
    let site = Site::without_gateway().context("building the second part's networks")?;
    site.write("cluster.yaml", &cluster_with_proxy_protocol())?;
    picture();
    let pod = site::destination(POD_V4, POD_PORT)?;
    let backend = site::destination("127.0.0.1", BACKEND_PORT)?;
    let listener = |at, proxy_protocol, serves| Listener {
        at,
        proxy_protocol,
        policy: None,
        serves,
    };
    let gateway = Gateway::start(
        &site.pod,
        &[
            listener(backend, false, Serves::Https),
            listener(pod, true, Serves::Passthrough(backend)),
        ],
    )?;
    let mut ways = Vec::new();
    for (port, sends, _) in WAYS {
        ways.push(Way {
            at: site::destination(BALANCER_V4, port)?,
            to: site::destination(NODE_V4, NODE_PORT)?,
            sends,
            // A connection without a byte, several times a second: an ALLOW policy must not make the gateway look dead.
            check: Check::Bare,
        });
    }
    let balancer = Balancer::haproxy(&site.router, &ways)?;
    let mut agent = start(&site, binary)?;
    let shown = Part {
        site: &site,
        balancer: &balancer,
    }
    .run(&mut agent);
    if let Err(error) = shown {
        say(format_args!("\nThe agent's last log lines:\n{}", agent.tail()));
        say(format_args!("\nEnvoy's last log lines:\n{}", gateway.tail()));
        return Err(error);
    }
    Ok(())
}

fn picture() {
    let [a, b] = CLIENT_V4;
    say(format_args!(
        "
======== A load balancer that hides the client, and the PROXY protocol ========

  client-a {a} ──┐
                          ├── haproxy {BALANCER_V4} ── {NIC} {NODE} {NODE_V4} ── Envoy {POD_V4}:{POD_PORT}
  client-b {b}   ──┘        (to the node: {PEER_V4})

  haproxy passes TLS through and writes the client's address into a PROXY header: version 1 at port 8001, version 2 at port 8002.
  Envoy has the proxy_protocol listener filter, as gatewayTopology.proxyProtocol gives it, and no policy of its own: what
  reaches it is answered. Each packet to the node has haproxy's address; the client is in the first bytes of the stream.
"
    ));
}

struct Part<'a> {
    site: &'a Site,
    balancer: &'a Balancer,
}

impl Part<'_> {
    fn run(&self, agent: &mut Process) -> Result<()> {
        say("\n1. No policy: everybody is let in");
        self.both(true, true)?;

        say("\n2. ALLOW for client-b: client-a's connection is reset, at both ends");
        self.apply("ALLOW", &[CLIENT_V4[1]])?;
        self.both(false, true)?;
        self.explain(agent)?;

        say("\n3. DENY for client-b: the other way round");
        self.apply("DENY", &[CLIENT_V4[1]])?;
        self.both(true, false)?;

        say("\n4. haproxy's health checks (a connection without a byte) were never refused");
        if self.balancer.log().contains("is DOWN") {
            bail!("haproxy took the gateway for dead:\n{}", self.balancer.log());
        }
        say("   haproxy never took the gateway for dead");

        say("\nCtrl-C for the agent: enforcement goes off with it");
        let status = agent.interrupt(SOON)?;
        if !status.success() {
            bail!("gwfilter ended with {status} after Ctrl-C");
        }
        if let Some(left) = hook(self.site) {
            bail!("a program is still attached to {NIC} after Ctrl-C: {left}");
        }
        self.both(true, true)
    }

    fn apply(&self, action: &str, blocks: &[&str]) -> Result<()> {
        let text = ingress_policy(action, "remoteIpBlocks", blocks);
        for line in text.lines().skip_while(|line| !line.starts_with("spec")) {
            say(format_args!("     {line}"));
        }
        self.site.write(POLICY, &text)
    }

    /// What both clients see, by each way.
    fn both(&self, a: bool, b: bool) -> Result<()> {
        for (port, _, name) in WAYS {
            for (client, let_in) in [(Client::A, a), (Client::B, b)] {
                self.check(client, port, name, let_in)?;
            }
        }
        Ok(())
    }

    fn check(&self, client: Client, port: u16, name: &str, let_in: bool) -> Result<()> {
        let namespace = self.site.client(client);
        let mut last = (String::new(), Duration::ZERO);
        // At first the agent may not have seen the change.
        let found = poll::every(PAUSE, SOON, || {
            let began = Instant::now();
            last.0 = curl(namespace, port).unwrap_or_else(|error| format!("{error:#}"));
            last.1 = began.elapsed();
            ((last.0 == "200") == let_in).then_some(())
        });
        let (saw, took) = last;
        say(format_args!(
            "   {} $ curl -k https://{BALANCER_V4}:{port}/headers   ({name})   → {saw}, after {} ms",
            client.name(),
            took.as_millis()
        ));
        if found.is_none() {
            bail!(
                "{} was {}to be let in by {name}, and saw: {saw}",
                client.name(),
                if let_in { "" } else { "not " }
            );
        }
        if !let_in && took > AT_ONCE {
            bail!("{} was left hanging for {took:?}", client.name());
        }
        Ok(())
    }

    /// The packet log tells the peer from the client.
    fn explain(&self, agent: &mut Process) -> Result<()> {
        let [a, _] = CLIENT_V4;
        let line = agent.wait_log("a refusal of client-a", SOON, |log| {
            log.lines()
                .rev()
                .find(|line| line.contains("verdict: drop") && line.contains(&format!("remoteIP: {a}")))
                .map(ToOwned::to_owned)
        })?;
        say(format_args!(
            "   The log has both addresses, as Envoy's would:\n   | {line}"
        ));
        Ok(())
    }
}

/// The status that curl shows, or what it says of a connection that came to nothing.
fn curl(namespace: &Namespace, port: u16) -> Result<String> {
    let curl = Curl {
        at: site::destination(BALANCER_V4, port)?,
        certificate: None,
        seconds: 10,
    };
    let said = curl.ask(namespace)?;
    Ok(said.map_or_else(|why| why, |status| status.to_string()))
}

//! Two clients, a router, and a node with an ingress gateway behind it.
//!
//! ```text
//!   client a ── eth0 ─┐
//!                     ├─ router ── eth0 ─ node ─ pods ── eth0 ─ gateway pod
//!   client b ── eth0 ─┘
//! ```
//!
//! The node does what kube-proxy does for a Service with `externalTrafficPolicy: Local`: it rewrites the destination of
//! the load balancer's address and of the node port to the pod, and leaves the client's address alone. The router sends the
//! load balancer's addresses to the node, as BGP or a cloud's pass-through balancer would. All addresses are from
//! documentation and private ranges, and exist only inside.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use crate::http::{self, Answer, Server};
use crate::netns::{Namespace, veth};
use crate::process::Process;
use crate::{manifests, rights};

/// The node's name.
pub const NODE: &str = "node-1";
/// The load balancer's IPv4 address.
pub const VIP_V4: &str = "203.0.113.80";
/// The load balancer's IPv6 address.
pub const VIP_V6: &str = "2001:db8:80::80";
/// The port at the load balancer's addresses.
pub const VIP_PORT: u16 = 80;
/// The node's own addresses.
pub const NODE_V4: &str = "10.0.0.10";
/// The node's IPv6 address.
pub const NODE_V6: &str = "fd00:10::10";
/// The port at the node's addresses.
pub const NODE_PORT: u16 = 30080;
/// The gateway pod's IPv4 address.
pub const POD_V4: &str = "10.244.1.5";
/// The gateway pod's IPv6 address.
pub const POD_V6: &str = "fd00:244::5";
/// The port the gateway listens on.
pub const POD_PORT: u16 = 8080;
/// A port of the node that stands for SSH: a server there, and nothing of a gateway.
pub const SSH_PORT: u16 = 22;
/// The clients' addresses: a, then b.
pub const CLIENT_V4: [&str; 2] = ["198.51.100.7", "192.0.2.20"];
/// The clients' IPv6 addresses: a, then b.
pub const CLIENT_V6: [&str; 2] = ["2001:db8:a::7", "2001:db8:b::20"];
/// Where clients reach a load balancer that runs in the router.
pub const BALANCER_V4: &str = "203.0.113.10";
/// The same, IPv6.
pub const BALANCER_V6: &str = "2001:db8:80::10";
/// The address from which that load balancer connects to the node.
pub const PEER_V4: &str = "10.0.0.1";
/// The same, IPv6.
pub const PEER_V6: &str = "fd00:10::1";
/// The device of the node that faces the clients.
pub const NIC: &str = "eth0";

/// How long a client waits before it calls silence an answer. A SYN is sent again after a second; this is less.
const PATIENCE: Duration = Duration::from_millis(700);

/// Between two requests that wait for a change: few enough that each packet's log line stays below the log's rate limit.
const PAUSE: Duration = Duration::from_millis(200);

/// Which client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// The first.
    A,
    /// The second.
    B,
}

impl Client {
    /// Both.
    pub const ALL: [Self; 2] = [Self::A, Self::B];

    /// Its address in the family of `to`.
    #[must_use]
    pub fn address(self, to: SocketAddr) -> &'static str {
        let [a, b] = if to.is_ipv4() { CLIENT_V4 } else { CLIENT_V6 };
        match self {
            Self::A => a,
            Self::B => b,
        }
    }

    /// What it is called.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::A => "client-a",
            Self::B => "client-b",
        }
    }
}

/// A destination of the site.
///
/// # Errors
/// If `address` is no IP address.
pub fn destination(address: &str, port: u16) -> Result<SocketAddr> {
    let ip: IpAddr = address
        .parse()
        .with_context(|| format!("`{address}` is no IP address"))?;
    Ok(SocketAddr::new(ip, port))
}

/// The whole site. Everything goes away with it.
#[derive(Debug)]
pub struct Site {
    /// The first client.
    pub client_a: Namespace,
    /// The second client.
    pub client_b: Namespace,
    /// What stands between the clients and the node.
    pub router: Namespace,
    /// The node; its device [`NIC`] faces the clients.
    pub node: Namespace,
    /// The gateway pod.
    pub pod: Namespace,
    gateway: Vec<Server>,
    ssh: Server,
    manifests: TempDir,
}

impl Site {
    /// Builds it, with a server as the gateway, one in SSH's place, and the objects of [`manifests::cluster`] in a folder.
    ///
    /// # Errors
    /// If namespaces cannot be made: this needs root, and the programs `ip`, `nft` and `ethtool`.
    pub fn new() -> Result<Self> {
        let mut site = Self::without_gateway()?;
        for pod in [POD_V4, POD_V6] {
            site.gateway
                .push(Server::start(&site.pod, destination(pod, POD_PORT)?)?);
        }
        site.write("cluster.yaml", &manifests::cluster())?;
        Ok(site)
    }

    /// The same without a gateway in the pod and without objects. The router is where a load balancer may run:
    /// [`BALANCER_V4`] and [`BALANCER_V6`] are its addresses for clients.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn without_gateway() -> Result<Self> {
        rights::require_root()?;
        let [client_a, client_b, router, node, pod] =
            ["client-a", "client-b", "router", "node", "pod"].map(Namespace::new);
        let (client_a, client_b, router, node, pod) = (client_a?, client_b?, router?, node?, pod?);
        for (client, at_router, v4, v6) in [
            (&client_a, "to-a", CLIENT_V4[0], CLIENT_V6[0]),
            (&client_b, "to-b", CLIENT_V4[1], CLIENT_V6[1]),
        ] {
            cable((client, "eth0"), (&router, at_router), (v4, 24), (v6, 64))?;
        }
        cable((&pod, "eth0"), (&node, "pods"), (POD_V4, 24), (POD_V6, 64))?;
        for namespace in [&router, &node] {
            namespace.forward()?;
        }
        node.nft(&service_rules())?;
        router.address("lo", &format!("{BALANCER_V4}/32"))?;
        router.address("lo", &format!("{BALANCER_V6}/128"))?;
        // On any address, of both families: the node's own come and go with its device.
        let ssh = Server::start(&node, destination("::", SSH_PORT)?)?;
        let folder = tempfile::Builder::new()
            .prefix("manifests-")
            .tempdir()
            .context("a folder for manifests")?;
        let site = Self {
            client_a,
            client_b,
            router,
            node,
            pod,
            gateway: Vec::new(),
            ssh,
            manifests: folder,
        };
        site.plug()?;
        Ok(site)
    }

    /// Plugs the node in: its device, addresses and default route, and the router's routes to it.
    /// For a site whose node was unplugged.
    ///
    /// # Errors
    /// If it is plugged in already, or `ip` fails.
    pub fn plug(&self) -> Result<()> {
        cable(
            (&self.node, NIC),
            (&self.router, "to-node"),
            (NODE_V4, 24),
            (NODE_V6, 64),
        )?;
        self.router.route(&format!("{VIP_V4}/32"), NODE_V4)?;
        self.router.route(&format!("{VIP_V6}/128"), NODE_V6)?;
        // Routed pods: the pod's own address can be reached from outside too.
        self.router.route("10.244.1.0/24", NODE_V4)?;
        self.router.route("fd00:244::/64", NODE_V6)
    }

    /// Pulls the node's device out: it vanishes, with its addresses and routes.
    ///
    /// # Errors
    /// If it is not there.
    pub fn unplug(&self) -> Result<()> {
        self.node.ip(&["link", "delete", NIC]).map(|_| ())
    }

    /// The folder the agent reads.
    #[must_use]
    pub fn manifests(&self) -> &Path {
        self.manifests.path()
    }

    /// Writes a manifest as an editor does: aside first, then in one step.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.manifests().join(name);
        let aside = self.manifests().join(format!(".{name}.new"));
        fs::write(&aside, text).with_context(|| format!("writing {}", aside.display()))?;
        fs::rename(&aside, &path).with_context(|| format!("replacing {}", path.display()))
    }

    /// Deletes a manifest.
    ///
    /// # Errors
    /// If it is not there.
    pub fn delete(&self, name: &str) -> Result<()> {
        let path = self.manifests().join(name);
        fs::remove_file(&path).with_context(|| format!("deleting {}", path.display()))
    }

    /// The namespace of a client.
    #[must_use]
    pub fn client(&self, client: Client) -> &Namespace {
        match client {
            Client::A => &self.client_a,
            Client::B => &self.client_b,
        }
    }

    /// One request from `client` to `to`, on a new connection.
    #[must_use]
    pub fn get(&self, client: Client, to: SocketAddr) -> Answer {
        http::get(self.client(client), None, to, PATIENCE)
    }

    /// Asks until the answer is one that is `wanted`, or the time is over; hands back the last answer.
    #[must_use]
    pub fn get_until(
        &self,
        client: Client,
        to: SocketAddr,
        within: Duration,
        wanted: impl Fn(&Answer) -> bool,
    ) -> Answer {
        let mut last = Answer::Timeout;
        let _ = crate::poll::every(PAUSE, within, || {
            last = self.get(client, to);
            wanted(&last).then_some(())
        });
        last
    }

    /// How many requests the gateway has answered.
    #[must_use]
    pub fn served(&self) -> usize {
        self.gateway.iter().map(Server::served).sum()
    }

    /// How many requests the server in SSH's place has answered.
    #[must_use]
    pub fn served_ssh(&self) -> usize {
        self.ssh.served()
    }

    /// Starts a command in the node, `binary` with `arguments`.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(&self, name: &str, binary: &Path, arguments: &[&str]) -> Result<Process> {
        let mut command = Command::new(binary);
        command.args(arguments);
        Process::spawn(&self.node, name, command)
    }
}

/// A cable with addresses at the left end, and a router (the first address of each prefix, and the default route) at the
/// right.
fn cable(left: (&Namespace, &str), right: (&Namespace, &str), v4: (&str, u8), v6: (&str, u8)) -> Result<()> {
    veth(left, right)?;
    for (address, bits) in [v4, v6] {
        let first = first_of(address);
        left.0.address(left.1, &format!("{address}/{bits}"))?;
        right.0.address(right.1, &format!("{first}/{bits}"))?;
        left.0.route("default", &first)?;
    }
    Ok(())
}

/// The address that ends in 1 in the same prefix.
fn first_of(address: &str) -> String {
    let separator = if address.contains(':') { ':' } else { '.' };
    match address.rsplit_once(separator) {
        Some((prefix, _)) => format!("{prefix}{separator}1"),
        None => address.to_owned(),
    }
}

/// What kube-proxy programs for the Service: a new destination, the same source.
fn service_rules() -> String {
    format!(
        "\
table ip services {{
  chain prerouting {{
    type nat hook prerouting priority dstnat;
    ip daddr {VIP_V4} tcp dport {VIP_PORT} dnat to {POD_V4}:{POD_PORT}
    ip daddr {NODE_V4} tcp dport {NODE_PORT} dnat to {POD_V4}:{POD_PORT}
  }}
}}
table ip6 services {{
  chain prerouting {{
    type nat hook prerouting priority dstnat;
    ip6 daddr {VIP_V6} tcp dport {VIP_PORT} dnat to [{POD_V6}]:{POD_PORT}
    ip6 daddr {NODE_V6} tcp dport {NODE_PORT} dnat to [{POD_V6}]:{POD_PORT}
  }}
}}
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_then_the_router_of_its_prefix() {
        assert_eq!(first_of("198.51.100.7"), "198.51.100.1");
        assert_eq!(first_of("2001:db8:a::7"), "2001:db8:a::1");
    }
}

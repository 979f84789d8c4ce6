//! What is sent: to a gateway in local mode, and to one behind the PROXY protocol.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use xtask::manifests::{self, ingress_policy};
use xtask::meter::{Fate, Kind, Stream};
use xtask::site::{
    NODE_PORT, NODE_V4, NODE_V6, POD_PORT, POD_V4, POD_V6, VIP_PORT, VIP_V4, VIP_V6, destination,
};

/// Sources, or clients: those that the policy lets in, and others.
const ALLOWED: [&str; 2] = ["192.0.2.0", "2001:db8:b::"];
const ALLOWED_NETS: [&str; 2] = ["192.0.2.0/25", "2001:db8:b::/64"];
const DENIED: [&str; 2] = ["198.51.100.0", "2001:db8:a::"];
/// Load balancers: those of the denied, then those of the allowed. A connection is known by its addresses and ports.
const PEERS: [[&str; 2]; 2] = [["10.7.0.0", "fd00:7::"], ["10.8.0.0", "fd00:8::"]];
/// How many of each there are.
const SOURCES: u32 = 128;

/// How the gateway learns its clients' addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// From the packets.
    Local,
    /// From PROXY headers.
    Proxy,
}

impl Mode {
    /// Frames a second of each stream. 10,000 are promised of what must not arrive and of what must, in the sum over both families;
    /// in local mode in each.
    pub(crate) fn rate(self) -> u32 {
        match self {
            Self::Local => 11_000,
            Self::Proxy => 5_500,
        }
    }

    /// The gateway's objects.
    pub(crate) fn cluster(self) -> String {
        match self {
            Self::Local => manifests::cluster(),
            Self::Proxy => manifests::cluster_with_proxy_protocol(),
        }
    }

    /// All streams: each family and fate, to every address of the gateway.
    pub(crate) fn streams(self) -> Result<Vec<Stream>> {
        let to = [
            [(VIP_V4, VIP_PORT), (NODE_V4, NODE_PORT), (POD_V4, POD_PORT)],
            [(VIP_V6, VIP_PORT), (NODE_V6, NODE_PORT), (POD_V6, POD_PORT)],
        ];
        let mut streams = Vec::new();
        for (fate, what, sources, peers) in [
            (Fate::Never, "denied", DENIED, PEERS[0]),
            (Fate::Always, "allowed", ALLOWED, PEERS[1]),
        ] {
            for (((source, peer), to), family) in sources.iter().zip(peers).zip(to).zip(["IPv4", "IPv6"]) {
                let to = to.iter().map(|(address, port)| destination(address, *port));
                let to: Vec<SocketAddr> = to.collect::<Result<_>>()?;
                let source = source.parse().context("an address")?;
                let stream = |name: String, fate, kind, first| Stream {
                    name,
                    fate,
                    kind,
                    first,
                    sources: SOURCES,
                    to: to.clone(),
                };
                let name = format!("{what} {family}");
                match (self, fate) {
                    (Self::Local, Fate::Never) => streams.push(stream(name, fate, Kind::Opening, source)),
                    (Self::Local, Fate::Always) => streams.push(stream(name, fate, Kind::Mixed, source)),
                    (Self::Proxy, _) => {
                        let peer = peer.parse().context("an address")?;
                        let opening = format!("openings before {name}");
                        streams.push(stream(opening, Fate::Always, Kind::Opening, peer));
                        streams.push(stream(name, fate, Kind::Header { client: source }, peer));
                    }
                }
            }
        }
        Ok(streams)
    }
}

/// The policy that all streams hang on: what is not allowed is denied. The client's address is the packet's where no header names another.
pub(crate) fn policy() -> String {
    ingress_policy("ALLOW", "remoteIpBlocks", &ALLOWED_NETS)
}

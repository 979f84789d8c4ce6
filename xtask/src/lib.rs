//! The lab: what gwfilter's tests, its demo and its Envoy oracle stand on.
//!
//! It knows nothing of gwfilter (no crate of the workspace is a dependency), and it makes everything real:
//! kernel namespaces, veth pairs, child processes, TCP connections.
//!
//! - [`netns::Namespace`] is a small machine: its own network, its own `/sys` and its own, empty bpffs at
//!   `/sys/fs/bpf`. It has no name anywhere and lives as long as the value (or a child in it), so tests run side by
//!   side and a killed test leaves nothing behind.
//! - [`netns::veth`] is a cable between two of them; [`netns::Namespace::address`], [`netns::Namespace::route`],
//!   [`netns::Namespace::sysctl`], [`netns::Namespace::nft`] and [`netns::Namespace::ip`] set them up.
//! - [`netns::Namespace::enter`] runs a closure there, on a thread of its own. Sockets opened there stay there.
//! - [`process::Process`] is a child with its output in a file; it is killed when the value goes.
//! - [`http::Server`] answers 200 and the peer's address; [`http::get`] and [`http::Connection`] ask it from a chosen
//!   source address and say what came of it: an [`http::Answer`].
//! - [`site::Site`] puts them together: two clients, a router and a node with an ingress gateway behind it, with the
//!   manifests that say so ([`manifests`]).
//! - [`foreign::attach_xdp`] puts somebody else's XDP program on a device; [`bpf`] has the system calls for it.
//! - [`curl::Curl`] asks by TLS.
//! - [`cluster::Cluster`] is a real API server and its etcd, with Istio's CRDs; it starts a DaemonSet's container as its pod
//!   template says.
//! - [`meter::Meter`] sends numbered streams over a cable and counts to the last frame which of them arrive.
//! - [`bpf`] loads programs of a few instructions, runs them and sends frames with them.
//! - [`rights::require_root`] fails with the reason where namespaces cannot be made. Tests call it and fail with it:
//!   a test that cannot run has not passed.
//! - [`prometheus::Prometheus`] is a real Prometheus on one of the machines.
//! - [`archive`] makes archives that are the same each time; [`oci::write`] a container image without a container tool.
//! - [`balancer::Balancer`] is a real haproxy or nginx that writes PROXY headers, [`gateway::Gateway`] a real Envoy that reads them.
//! - [`kernel::lacks`] is what an old kernel need not do in a test.
//! - [`envoy::binary`] is where `cargo xtask setup` put Envoy.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use std::time::Duration;
//! use xtask::http::{self, Answer};
//! use xtask::netns::{Namespace, veth};
//!
//! xtask::rights::require_root()?;
//! let (client, gateway) = (Namespace::new("client")?, Namespace::new("gateway")?);
//! veth((&client, "eth0"), (&gateway, "eth0"))?;
//! client.address("eth0", "198.51.100.7/24")?;
//! gateway.address("eth0", "198.51.100.1/24")?;
//! let server = http::Server::start(&gateway, "198.51.100.1:8080".parse()?)?;
//! let answer = http::get(&client, None, server.address(), Duration::from_secs(1));
//! assert_eq!(answer, Answer::Status(200));
//! # Ok(())
//! # }
//! ```
//!
//! Errors are [`anyhow::Error`]: whoever meets one here is a person reading a test's or the demo's output.

pub mod archive;
pub mod balancer;
pub mod bpf;
pub mod certificate;
pub mod cluster;
pub mod curl;
pub mod envoy;
pub mod foreign;
pub mod gateway;
pub mod http;
pub mod kernel;
pub mod manifests;
pub mod meter;
pub mod netns;
pub mod oci;
pub mod paths;
pub mod poll;
pub mod process;
pub mod prometheus;
pub mod rights;
pub mod site;

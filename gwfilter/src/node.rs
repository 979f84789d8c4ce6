//! What is known of this node.

use std::collections::BTreeSet;
use std::net::IpAddr;

/// Facts about the node that enforcement is computed for. I/O fills it (netlink, `--node`); the pure part reads it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// `--node NAME`; `None`: a node that runs every gateway pod of the manifests.
    pub name: Option<String>,
    /// Addresses on this machine's interfaces, global scope, both families (no loopback, link-local or multicast ones). `None` where the
    /// machine is not the node (`check`, `explain`): the Node objects' addresses stand for them.
    pub local_addresses: Option<BTreeSet<IpAddr>>,
}

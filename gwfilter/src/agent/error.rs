//! Why the agent ended.

use std::io;

use super::enforce::EnforceError;
use super::interfaces::InterfacesError;
use crate::dataplane::DataplaneError;
use crate::dataplane::netlink::NetlinkError;
use crate::dataplane::pins::PinsError;
use crate::dataplane::tables::TablesError;
use crate::{kube, source};

/// Why the agent ended.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The runtime.
    #[error("cannot start the event loop")]
    Runtime(#[source] io::Error),
    /// Reading the manifests for the first time.
    #[error("no manifests: --from needs a file, a directory or - that can be read")]
    Source(#[from] source::SourceError),
    /// The cluster's address and credentials.
    #[error("cannot watch a cluster")]
    Kube(#[from] kube::ConfigError),
    /// Rights, object, maps, pins.
    #[error("cannot set up enforcement")]
    Dataplane(#[from] DataplaneError),
    /// Devices and addresses.
    #[error("cannot learn this machine's interfaces and addresses")]
    Netlink(#[from] NetlinkError),
    /// Lease and pause.
    #[error("the lease cannot be written; nothing was attached")]
    Lease(#[from] TablesError),
    /// Not even a first generation that refuses nothing.
    #[error("the first tables cannot be made, not even ones that refuse nothing; nothing was attached")]
    Enforce(#[from] EnforceError),
    /// The first interfaces.
    #[error("no interface is served")]
    Interfaces(#[from] InterfacesError),
    /// Taking enforcement off.
    #[error("enforcement could not be taken off")]
    Detach(#[source] PinsError),
}

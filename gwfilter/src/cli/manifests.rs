//! Manifests for the verbs that look once: `check` and `explain`.

use anyhow::{Context, bail};
use ipnet::IpNet;

use crate::gateway;
use crate::index::Index;
use crate::node::NodeFacts;
use crate::pipeline::{self, Built};
use crate::source::Origin;
use crate::source::files::{Files, News};
use crate::telemetry::chain;

/// Which manifests, and for which node.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Manifests {
    #[command(flatten)]
    from: super::From,
    #[command(flatten)]
    node: Node,
}

impl Manifests {
    /// Reads the manifests and compiles them.
    ///
    /// # Errors
    /// [`Node::build`].
    pub(super) fn build(&self) -> anyhow::Result<Built> {
        self.node.build(&self.from.from)
    }
}

/// For which node, and what holds there besides the manifests.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Node {
    /// The node that is meant; without it, one that runs every gateway pod of the manifests
    #[arg(long, value_name = "NAME", requires = "from")]
    node: Option<String>,
    /// Sources that are never dropped, at any gateway
    #[arg(long, value_name = "CIDR,…", value_delimiter = ',', value_parser = super::address::network, requires = "from")]
    never_drop: Vec<IpNet>,
}

impl Node {
    /// Reads manifests and compiles them for it.
    ///
    /// # Errors
    /// Nothing usable could be read. One broken file among others is a diagnostic.
    pub(super) fn build(&self, from: &Origin) -> anyhow::Result<Built> {
        let index = read(from)?;
        let node = NodeFacts {
            name: self.node.clone(),
            local_addresses: None,
        };
        let settings = pipeline::Settings {
            gateway: gateway::Settings {
                never_drop: self.never_drop.clone(),
                from_files: true,
            },
            ..pipeline::Settings::default()
        };
        Ok(pipeline::build(&index.snapshot(), &node, &settings))
    }
}

/// Reads manifests.
///
/// # Errors
/// Nothing usable could be read.
pub(super) fn read(origin: &Origin) -> anyhow::Result<Index> {
    let mut index = Index::new();
    let changes = Files::new(origin.clone())
        .poll()
        .context("no manifests: --from needs a file, a directory or - that can be read")?;
    if changes.is_empty() {
        bail!(
            "no manifests in {origin}: no file there ends in .yaml, .yml or .json; name a file, or the directory that holds them"
        );
    }
    let (mut usable, mut broken) = (false, None);
    for change in changes {
        let failure = match change.news {
            News::Bytes(bytes) => match index.load(&change.name, &bytes) {
                Ok(()) => {
                    usable |= !blank(&bytes);
                    continue;
                }
                Err(e) => anyhow::Error::new(e).context(format!("{} is no readable manifest", change.name)),
            },
            News::Unreadable(e) => {
                index.unreadable(&change.name, &chain(&e));
                anyhow::Error::new(e)
            }
            News::Gone => continue,
        };
        broken = broken.or(Some(failure));
    }
    match broken {
        Some(failure) if !usable => {
            Err(failure.context(format!("nothing usable in {origin}: correct it and try again")))
        }
        None if !usable => {
            bail!(
                "{origin} is empty: expected manifests, as `kubectl get -o yaml` prints them (did the command before the pipe fail?)"
            )
        }
        _ => Ok(index),
    }
}

fn blank(bytes: &[u8]) -> bool {
    bytes.iter().all(u8::is_ascii_whitespace)
}

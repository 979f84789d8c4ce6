//! Kubernetes as a source of objects: one watch per kind, each a source of the index.
//!
//! [`kinds`] (pure) says what is watched, `config` finds the API server, `watch` keeps one kind in step and tells what
//! fails. Everything ends in [`Update`]s over one channel; nothing here knows what an object means for a gateway, and nothing
//! here drops knowledge because the API server cannot be reached.

mod config;
pub mod events;
pub mod fleet;
pub mod kinds;
pub mod own;
mod pace;
pub mod review;
mod watch;

use std::path::PathBuf;

use tokio::sync::mpsc;

use crate::diagnostic::Diagnostic;
use crate::index::Index;
use crate::object::{Key, Object};
use crate::snapshot::unread::Subject;

pub use config::ConfigError;

/// Updates that wait for the agent, at most. When they are more, the watches wait, and the API server with them.
const WAITING: usize = 1024;

/// How the cluster is reached, and what of it is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `--kubeconfig`; without it, the service account of the pod.
    pub kubeconfig: Option<PathBuf>,
    /// `--node`: of gateways, only its pods are watched.
    pub node: String,
    /// `--mesh-configmap`: namespace and name of the ConfigMap with the mesh configuration.
    pub mesh_config_map: (String, String),
}

/// News of one source.
#[derive(Debug)]
pub struct Update {
    /// The source's name in the index.
    pub source: String,
    /// What became of it.
    pub change: Change,
}

/// What became of a source.
#[derive(Debug)]
pub enum Change {
    /// Everything that it holds now.
    Reset {
        /// The objects.
        objects: Vec<Object>,
        /// What was found while decoding them.
        diagnostics: Vec<Diagnostic>,
    },
    /// A new or changed object.
    Apply {
        /// The object.
        object: Box<Object>,
        /// What was found while decoding it.
        diagnostics: Vec<Diagnostic>,
    },
    /// An object that is gone.
    Delete(Key),
    /// It cannot be read now: what it said last stays.
    Unreadable(String),
    /// It can be read again, and what it said last holds.
    Readable,
}

impl Update {
    /// Tells the index; says whether the index may mean something else now.
    pub fn tell(self, index: &mut Index) -> bool {
        match self.change {
            Change::Reset { objects, diagnostics } => {
                index.reset(&self.source, objects, diagnostics);
                true
            }
            Change::Apply { object, diagnostics } => index.apply(&self.source, *object, diagnostics),
            Change::Delete(key) => index.delete(&self.source, &key),
            Change::Unreadable(why) => {
                index.unreadable(&self.source, &why);
                true
            }
            Change::Readable => index.readable(&self.source),
        }
    }
}

/// Open watches.
pub struct Watches {
    /// What the API server is asked through.
    pub client: ::kube::Client,
    /// The name of each source in the index, and what it speaks of.
    pub sources: Vec<(String, Subject)>,
    /// What they tell.
    pub updates: mpsc::Receiver<Update>,
}

/// Opens the watches, as tasks of the current runtime. They end with the receiver.
///
/// # Errors
/// The configuration cannot be used. An API server that does not answer is no error: it is waited for.
pub async fn open(settings: &Settings) -> Result<Watches, ConfigError> {
    let client = config::client(settings.kubeconfig.as_deref()).await?;
    let (sender, receiver) = mpsc::channel(WAITING);
    let (namespace, name) = &settings.mesh_config_map;
    let all = kinds::all(&settings.node, (namespace, name));
    let subject = |watched: &kinds::Watched| (watched.source.clone(), watched.subject());
    let sources = all.iter().map(subject).collect();
    for watched in all {
        tokio::spawn(watch::follow(client.clone(), watched, sender.clone()));
    }
    Ok(Watches {
        client,
        sources,
        updates: receiver,
    })
}

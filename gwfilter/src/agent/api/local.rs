//! The unix socket, for root of this node: no token, and nobody else.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat};
use nix::unistd::geteuid;
use tokio::net::UnixListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tracing::{debug, warn};

use super::Shared;
use super::serve::{self, Door};

/// Connections at a time.
const CONNECTIONS: usize = 16;

/// An open socket; gone from the file system when it is dropped.
#[derive(Debug)]
pub(super) struct Socket {
    path: PathBuf,
    inode: u64,
    task: JoinHandle<()>,
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.task.abort();
        // Perhaps it is the next agent's by now.
        if fs::symlink_metadata(&self.path).is_ok_and(|meta| meta.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Opens the socket. Only who holds the lock of this network namespace may: what lies there is a dead agent's.
pub(super) fn open(path: PathBuf, shared: &Arc<Shared>) -> Option<Socket> {
    match bind(&path) {
        Ok((listener, inode)) => {
            let task = tokio::spawn(serve(listener, Arc::clone(shared)));
            Some(Socket { path, inode, task })
        }
        Err(e) => {
            warn!(
                path = %path.display(),
                error = %e,
                "the agent's socket cannot be opened; commands on this node cannot ask the agent, enforcement goes on"
            );
            None
        }
    }
}

fn bind(path: &Path) -> io::Result<(UnixListener, u64)> {
    if let Some(dir) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    }
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    // Who comes between these two calls is asked who he is, as everybody is.
    // By this call, as the shipped seccomp profile has no `chmod`.
    fchmodat(
        AT_FDCWD,
        path,
        Mode::S_IRUSR | Mode::S_IWUSR,
        FchmodatFlags::FollowSymlink,
    )?;
    Ok((listener, fs::symlink_metadata(path)?.ino()))
}

async fn serve(listener: UnixListener, shared: Arc<Shared>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let own = geteuid().as_raw();
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, most likely.
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        let peer = stream.peer_cred().map(|peer| peer.uid());
        if !peer.as_ref().is_ok_and(|uid| *uid == 0 || *uid == own) {
            debug!(?peer, "somebody who is not root came to the agent's socket");
            continue;
        }
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            serve::connection(stream, &Door::Root, None, &shared).await;
            drop(place);
        });
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::agent::api::Call;
    use crate::client::{Agent, ClientError};
    use crate::telemetry::metrics::Figures;

    /// An agent's socket, and a loop that answers.
    fn door(path: &Path) -> Socket {
        let (shared, mut calls) = Shared::new(None);
        tokio::spawn(async move {
            while let Some(Call::Figures(answer)) = calls.recv().await {
                let _ = answer.send(Figures::default());
            }
        });
        open(path.to_owned(), &shared).unwrap()
    }

    #[tokio::test]
    async fn an_open_socket_then_for_root_alone_and_gone_with_the_agent() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/agent.sock");
        let first = door(&path);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        let agent = Agent::at(path.clone());
        let metrics = agent.get("/metrics").await.unwrap();
        assert!(metrics.starts_with(b"# "), "{metrics:?}");
        for (target, wanted, words) in [
            ("/v1/other", 404, "there is no such page"),
            ("/metrics?x=1", 400, "`x` is not known here"),
            (
                "/metrics?%",
                400,
                "`%` is not encoded as the query part of an address is",
            ),
        ] {
            match agent.get(target).await.unwrap_err() {
                ClientError::Refused { status, words: said } => {
                    assert_eq!((status, said.as_str()), (wanted, words))
                }
                other => panic!("{target}: {other}"),
            }
        }
        // The next agent's socket is not the first one's to remove.
        let second = door(&path);
        drop(first);
        agent.get("/metrics").await.unwrap();
        drop(second);
        assert!(matches!(
            agent.get("/metrics").await,
            Err(ClientError::NoAgent { .. })
        ));
    }

    #[tokio::test]
    async fn nobody_there_then_the_error_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let ask = async || {
            Agent::at(path.clone())
                .get("/metrics")
                .await
                .unwrap_err()
                .to_string()
        };
        let error = ask().await;
        assert!(
            error.contains("no agent runs") && error.contains("`gwfilter run`"),
            "{error}"
        );
        drop(UnixListener::bind(&path).unwrap());
        let error = ask().await;
        assert!(
            error.contains("is gone") && error.contains("`gwfilter run`"),
            "{error}"
        );
        fs::remove_file(&path).unwrap();
        let listener = UnixListener::bind(&path).unwrap();
        tokio::spawn(async move { while listener.accept().await.is_ok() {} });
        let error = ask().await;
        assert!(
            error.contains("gave no answer") && error.contains("sudo"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn an_agent_that_does_not_answer_then_said_in_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let _listener = UnixListener::bind(&path).unwrap();
        let agent = Agent::at(path).patient(Duration::from_millis(50));
        let error = agent.get("/metrics").await.unwrap_err().to_string();
        assert!(error.contains("does not answer within 0 s"), "{error}");
    }
}

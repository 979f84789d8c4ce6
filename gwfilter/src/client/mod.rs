//! Asking the agent of this network namespace, over its unix socket. Says what is wrong and what to do; decides nothing.

mod lines;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

pub use lines::Lines;

use crate::agent;

/// How long an answer, or the beginning of an endless one, is waited for, unless [`Agent::patient`] says otherwise.
const PATIENCE: Duration = Duration::from_secs(15);
/// The largest answer that is taken, in bytes.
const LARGEST: usize = 256 << 20;
/// The most of a refusal's words that is shown, in bytes.
const WORDS: usize = 4 << 10;

/// Why there is no answer, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No socket.
    #[error(
        "no agent runs in this network namespace (there is no {path}): start one with `gwfilter run`, or ask where it runs; `gwfilter status` \
         shows what is attached here"
    )]
    NoAgent {
        /// Where it would be.
        path: PathBuf,
    },
    /// A socket that nobody answers.
    #[error(
        "the agent that was here is gone (nobody answers at {path}): `gwfilter run` starts another one; `gwfilter status` shows what is still \
         attached"
    )]
    Gone {
        /// Where it was.
        path: PathBuf,
    },
    /// Not root.
    #[error("the agent at {path} answers root only: use sudo")]
    NoRight {
        /// Where it is.
        path: PathBuf,
    },
    /// The agent closed the connection.
    #[error("the agent at {path} gave no answer: it ended just now, or it answers root only (use sudo)")]
    Closed {
        /// Where it is.
        path: PathBuf,
        /// What was seen of it.
        source: hyper::Error,
    },
    /// No answer in time.
    #[error("the agent at {path} does not answer within {} s: its log says what it does", .patience.as_secs())]
    Silent {
        /// Where it is.
        path: PathBuf,
        /// How long it was waited for.
        patience: Duration,
    },
    /// Another status than 200.
    #[error("the agent answers: {words}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// What the agent says.
        words: String,
    },
    /// Not what was asked for.
    #[error(
        "the agent's answer to {target} is not understood: it is of another version of gwfilter than this command"
    )]
    Answer {
        /// What was asked.
        target: String,
        /// Why not.
        source: serde_json::Error,
    },
    /// Anything else.
    #[error("the agent at {path} cannot be asked")]
    Io {
        /// Where it is.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// The agent of this network namespace.
#[derive(Clone, Debug)]
pub struct Agent {
    path: PathBuf,
    patience: Duration,
}

/// Drives a connection; ends it when dropped.
#[derive(Debug)]
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Agent {
    /// Where the agent of this network namespace would be. Nothing is asked yet.
    #[must_use]
    pub fn here() -> Self {
        Self::at(agent::socket())
    }

    /// At another socket.
    #[must_use]
    pub const fn at(path: PathBuf) -> Self {
        Self {
            path,
            patience: PATIENCE,
        }
    }

    /// Waits so long for an answer.
    #[must_use]
    pub fn patient(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// One question, the answer's bytes. `target` is a path with its query part, as [`crate::params::target`] writes it.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn get(&self, target: &str) -> Result<Bytes, ClientError> {
        let asked = async {
            let (answer, _driver) = self.ask(target).await?;
            self.whole(answer, LARGEST).await
        };
        self.in_time(asked).await
    }

    /// One question, the answer read as JSON.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn json<T: DeserializeOwned>(&self, target: &str) -> Result<T, ClientError> {
        let answer = self.get(target).await?;
        serde_json::from_slice(&answer).map_err(|source| ClientError::Answer {
            target: target.to_owned(),
            source,
        })
    }

    /// One question with an endless answer. It ends when the [`Lines`] are dropped.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn lines(&self, target: &str) -> Result<Lines, ClientError> {
        let (answer, driver) = self.in_time(self.ask(target)).await?;
        Ok(Lines::new(answer.into_body(), driver, self.path.clone()))
    }

    async fn in_time<T>(&self, what: impl Future<Output = Result<T, ClientError>>) -> Result<T, ClientError> {
        timeout(self.patience, what).await.unwrap_or_else(|_| {
            Err(ClientError::Silent {
                path: self.path.clone(),
                patience: self.patience,
            })
        })
    }

    /// The head of an answer whose status is 200.
    async fn ask(&self, target: &str) -> Result<(Response<Incoming>, Driver), ClientError> {
        let stream = UnixStream::connect(&self.path)
            .await
            .map_err(|e| self.unreachable(e))?;
        let io = TokioIo::new(stream);
        let (mut sender, connection) = http1::handshake(io).await.map_err(|e| self.closed(e))?;
        let driver = Driver(tokio::spawn(async move {
            // What goes wrong is seen by who reads the answer.
            let _ = connection.await;
        }));
        let request = Request::get(target)
            .header(HOST, "agent")
            .body(Empty::<Bytes>::new())
            .map_err(|e| self.unreachable(io::Error::other(e)))?;
        let answer = sender.send_request(request).await.map_err(|e| self.closed(e))?;
        let status = answer.status().as_u16();
        if status == 200 {
            return Ok((answer, driver));
        }
        let words = self.whole(answer, WORDS).await?;
        let words = String::from_utf8_lossy(&words).trim().to_owned();
        Err(ClientError::Refused { status, words })
    }

    async fn whole(&self, answer: Response<Incoming>, most: usize) -> Result<Bytes, ClientError> {
        let body = Limited::new(answer.into_body(), most).collect().await;
        body.map(http_body_util::Collected::to_bytes)
            .map_err(|e| match e.downcast::<hyper::Error>() {
                Ok(e) => self.closed(*e),
                Err(e) => self.unreachable(io::Error::other(e)),
            })
    }

    fn unreachable(&self, source: io::Error) -> ClientError {
        let path = self.path.clone();
        match source.kind() {
            io::ErrorKind::NotFound => ClientError::NoAgent { path },
            io::ErrorKind::ConnectionRefused => ClientError::Gone { path },
            io::ErrorKind::PermissionDenied => ClientError::NoRight { path },
            _ => ClientError::Io { path, source },
        }
    }

    fn closed(&self, source: hyper::Error) -> ClientError {
        ClientError::Closed {
            path: self.path.clone(),
            source,
        }
    }
}

/// Runs `work` on a runtime of its own, for commands that do nothing else.
///
/// # Errors
/// There is no runtime to be had, or what `work` says.
pub fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(work)
}

//! The TCP port, for whoever reaches the node: TLS with a certificate of this start, and a token for each question.
//!
//! The certificate proves nothing and is not meant to: it keeps tokens and answers from who only listens. Who stands between an asker and the
//! agent can take a token, which is why the command line's live ten minutes and are good for nothing but this.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tracing::{debug, error, info, warn};

use super::Shared;
use super::guard::Tokens;
use super::newcomer::Newcomers;
use super::serve::{self, Door};
use crate::telemetry::chain;

/// Connections at a time.
const CONNECTIONS: usize = 32;
/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(2);
/// Between two connections: strangers' handshakes shall not take the time of the one thread that enforces.
const PACE: Duration = Duration::from_millis(5);
/// Pause after an address that cannot be had.
const PAUSE: Duration = Duration::from_secs(5);

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
enum TlsError {
    #[error("no certificate can be made")]
    Certificate(#[from] rcgen::Error),
    #[error("the certificate cannot be used")]
    Use(#[from] rustls::Error),
}

/// An open port; closed when dropped.
#[derive(Debug)]
pub(super) struct Port(JoinHandle<()>);

impl Drop for Port {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Opens the port, now or when the address can be had.
pub(super) fn open(address: SocketAddr, tokens: Arc<Tokens>, shared: &Arc<Shared>) -> Option<Port> {
    match acceptor() {
        Ok(acceptor) => {
            let door = Arc::new(Door::Token(tokens));
            Some(Port(tokio::spawn(serve(
                address,
                acceptor,
                door,
                Arc::clone(shared),
            ))))
        }
        Err(e) => {
            warn!(%address, error = chain(&e), "the API has no port; enforcement does not depend on it");
            None
        }
    }
}

fn acceptor() -> Result<TlsAcceptor, TlsError> {
    let made = rcgen::generate_simple_self_signed(["gwfilter".to_owned()])?;
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], PrivateKeyDer::Pkcs8(key))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// So that who is gone without a word is noticed within a minute: nothing else would tell, where little is sent.
fn keep_alive(stream: &TcpStream) -> nix::Result<()> {
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &30)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &10)?;
    setsockopt(stream, sockopt::TcpKeepCount, &3)?;
    // In milliseconds; for what was sent and nobody acknowledges.
    setsockopt(stream, sockopt::TcpUserTimeout, &60_000)
}

async fn serve(address: SocketAddr, acceptor: TlsAcceptor, door: Arc<Door>, shared: Arc<Shared>) {
    let mut told = false;
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            // Perhaps an agent that is about to end.
            Err(e) if !told => {
                error!(%address, error = %e, "the API's address cannot be had; it is tried again");
                told = true;
            }
            Err(_) => {}
        }
        sleep(PAUSE).await;
    };
    if told {
        info!(%address, "the API can be asked");
    }
    let (places, newcomers) = (Arc::new(Semaphore::new(CONNECTIONS)), Newcomers::default());
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let accepted = listener.accept().await;
        sleep(PACE).await;
        let Ok((stream, from)) = accepted else {
            continue;
        };
        let Some(newcomer) = newcomers.admit(from.ip()) else {
            continue;
        };
        if let Err(e) = keep_alive(&stream) {
            debug!(error = %e, "a connection without keepalive");
        }
        let (acceptor, door, shared) = (acceptor.clone(), Arc::clone(&door), Arc::clone(&shared));
        tokio::spawn(async move {
            if let Ok(Ok(stream)) = timeout(HANDSHAKE, acceptor.accept(stream)).await {
                serve::connection(stream, &door, Some(newcomer), &shared).await;
            }
            drop(place);
        });
    }
}

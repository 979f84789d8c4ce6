//! A tiny HTTP/1.1 server and client, enough to tell an answer from silence.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6, bind, connect, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};

use crate::netns::Namespace;

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The server answered with this status.
    Status(u16),
    /// Nothing came back in time: dropped somewhere.
    Timeout,
    /// Refused while connecting: nobody listens, or a reset in its place.
    Refused,
    /// The connection was there and was reset, or closed without an answer.
    Reset,
    /// Something else: no route, no such source address, no HTTP.
    Other(String),
}

impl Answer {
    /// Whether the server answered at all.
    #[must_use]
    pub fn arrived(&self) -> bool {
        matches!(self, Self::Status(_))
    }

    /// Whether the network kept it away: silence or a reset.
    #[must_use]
    pub fn kept_away(&self) -> bool {
        matches!(self, Self::Timeout | Self::Refused | Self::Reset)
    }
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Status(code) => write!(f, "{code}"),
            Self::Timeout => f.write_str("no answer (timeout)"),
            Self::Refused => f.write_str("connection refused"),
            Self::Reset => f.write_str("connection reset"),
            Self::Other(what) => f.write_str(what),
        }
    }
}

/// Sends one `GET /headers` from `namespace` and says what came of it. `from` is the source address to bind to; `within`
/// is the time for each of connecting, sending and reading.
#[must_use]
pub fn get(namespace: &Namespace, from: Option<IpAddr>, to: SocketAddr, within: Duration) -> Answer {
    match Connection::open(namespace, from, to, within) {
        Ok(mut connection) => connection.get(),
        Err(answer) => answer,
    }
}

/// Sends one `GET` of `path`, the rest as in [`get`].
#[must_use]
pub fn get_path(namespace: &Namespace, to: SocketAddr, path: &str, within: Duration) -> Answer {
    match Connection::open(namespace, None, to, within) {
        Ok(mut connection) => {
            path.clone_into(&mut connection.path);
            connection.get()
        }
        Err(answer) => answer,
    }
}

/// An open connection, for more than one request.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    host: SocketAddr,
    path: String,
    body: String,
}

impl Connection {
    /// Connects; the arguments as in [`get`].
    ///
    /// # Errors
    /// What came of it in place of a connection.
    pub fn open(
        namespace: &Namespace,
        from: Option<IpAddr>,
        to: SocketAddr,
        within: Duration,
    ) -> Result<Self, Answer> {
        let stream = namespace
            .enter(|| dial(from, to, within))
            .map_err(|error| Answer::Other(format!("{error:#}")))?
            .map_err(|error| answer_of(&error, true))?;
        Ok(Self {
            stream,
            host: to,
            path: "/headers".to_owned(),
            body: String::new(),
        })
    }

    /// Sends a `GET` and waits for the whole answer; the connection stays open.
    pub fn get(&mut self) -> Answer {
        match self.exchange() {
            Ok(answer) => answer,
            Err(error) => answer_of(&error, false),
        }
    }

    /// The body of the last answer: from [`Server`], the peer address it saw (`IP:PORT`).
    #[must_use]
    pub fn body(&self) -> &str {
        &self.body
    }

    /// The address this end has.
    ///
    /// # Errors
    /// If the socket is gone.
    pub fn local(&self) -> Result<SocketAddr> {
        self.stream.local_addr().context("asking for the local address")
    }

    fn exchange(&mut self) -> io::Result<Answer> {
        self.body.clear();
        let request = format!("GET {} HTTP/1.1\r\nHost: {}\r\n\r\n", self.path, self.host);
        self.stream.write_all(request.as_bytes())?;
        let head = read_head(&mut self.stream)?;
        let status = head.split_whitespace().nth(1).and_then(|code| code.parse().ok());
        let Some(status) = status else {
            return Ok(Answer::Other(format!("not HTTP: {head:?}")));
        };
        let length = head
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
            .and_then(|(_, value)| value.trim().parse::<usize>().ok())
            .unwrap_or(0);
        let mut body = vec![0; length.min(1 << 16)];
        self.stream.read_exact(&mut body)?;
        self.body = String::from_utf8_lossy(&body).into_owned();
        Ok(Answer::Status(status))
    }
}

fn answer_of(error: &io::Error, connecting: bool) -> Answer {
    use io::ErrorKind as Kind;
    // EINPROGRESS is how a connect that ran into its send timeout ends.
    if error.raw_os_error() == Some(nix::errno::Errno::EINPROGRESS as i32) {
        return Answer::Timeout;
    }
    match error.kind() {
        Kind::TimedOut | Kind::WouldBlock => Answer::Timeout,
        Kind::ConnectionRefused => Answer::Refused,
        Kind::ConnectionReset if connecting => Answer::Refused,
        Kind::ConnectionReset | Kind::BrokenPipe | Kind::UnexpectedEof => Answer::Reset,
        _ => Answer::Other(error.to_string()),
    }
}

fn dial(from: Option<IpAddr>, to: SocketAddr, within: Duration) -> io::Result<TcpStream> {
    let family = if to.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let limit = TimeVal::microseconds(i64::try_from(within.as_micros()).unwrap_or(i64::MAX));
    setsockopt(&fd, sockopt::SendTimeout, &limit)?;
    setsockopt(&fd, sockopt::ReceiveTimeout, &limit)?;
    match from.map(|ip| SocketAddr::new(ip, 0)) {
        Some(SocketAddr::V4(from)) => bind(fd.as_raw_fd(), &SockaddrIn::from(from))?,
        Some(SocketAddr::V6(from)) => bind(fd.as_raw_fd(), &SockaddrIn6::from(from))?,
        None => {}
    }
    match to {
        SocketAddr::V4(to) => connect(fd.as_raw_fd(), &SockaddrIn::from(to))?,
        SocketAddr::V6(to) => connect(fd.as_raw_fd(), &SockaddrIn6::from(to))?,
    }
    Ok(TcpStream::from(fd))
}

/// Reads up to and with the empty line; byte by byte, so nothing of the body is taken.
fn read_head(stream: &mut impl io::Read) -> io::Result<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.extend_from_slice(&byte);
        if head.len() > 1 << 14 {
            return Err(io::Error::other("a head without end"));
        }
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// A server in a namespace: answers every request with 200 and, as the body, the peer address it saw.
/// Connections stay open until the client closes them or the server is dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    served: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts one on `address` (port 0 takes a free one).
    ///
    /// # Errors
    /// If the address cannot be bound there.
    pub fn start(namespace: &Namespace, address: SocketAddr) -> Result<Self> {
        let listener = namespace
            .enter(|| TcpListener::bind(address))?
            .with_context(|| format!("listening on {address} in `{}`", namespace.label()))?;
        let address = listener
            .local_addr()
            .context("asking for the listening address")?;
        let (served, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let acceptor = std::thread::Builder::new()
            .name(format!("lab http {address}"))
            .spawn({
                let (served, stop) = (Arc::clone(&served), Arc::clone(&stop));
                move || accept(&listener, &served, &stop)
            })
            .context("starting a server thread")?;
        Ok(Self {
            address,
            served,
            stop,
            acceptor: Some(acceptor),
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many requests it has answered.
    #[must_use]
    pub fn served(&self) -> usize {
        self.served.load(Ordering::SeqCst)
    }
}

/// How often the server looks whether it should stop.
const LOOK: Duration = Duration::from_millis(50);

fn accept(listener: &TcpListener, served: &AtomicUsize, stop: &AtomicBool) {
    if listener.set_nonblocking(true).is_err() {
        return;
    }
    // No handle is kept: a thread that ended and is not joined keeps its stack, and some ten thousand stacks are all that a process may map.
    std::thread::scope(|scope| {
        while !stop.load(Ordering::SeqCst) {
            match listener.accept() {
                Ok((stream, peer)) => drop(scope.spawn(move || serve(stream, peer, served, stop))),
                Err(_) => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    });
}

fn serve(mut stream: TcpStream, peer: SocketAddr, served: &AtomicUsize, stop: &AtomicBool) {
    if stream.set_nonblocking(false).is_err() || stream.set_read_timeout(Some(LOOK)).is_err() {
        return;
    }
    while !stop.load(Ordering::SeqCst) {
        // Wait for the first byte in small steps, so a stop is seen; then read the head in one go.
        match stream.peek(&mut [0]) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                continue;
            }
            Err(_) => return,
        }
        if read_head(&mut stream).is_err() {
            return;
        }
        served.fetch_add(1, Ordering::SeqCst);
        // A server on `::` sees IPv4 peers in their mapped form.
        let body = SocketAddr::new(peer.ip().to_canonical(), peer.port()).to_string();
        let reply = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        if stream.write_all(reply.as_bytes()).is_err() {
            return;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

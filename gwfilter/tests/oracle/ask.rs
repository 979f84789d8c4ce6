//! Clients: one connection from a chosen source address, and whether anything it asks gets through.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, socket};

use crate::set::{Chain, Placed, TcpServer, Topology};

const PATIENCE: Duration = Duration::from_secs(30);

/// Methods, paths, hosts and header values that policies may name, each list with one that no policy names: without it a
/// drop of "all but the named" would never be seen to be wrong.
const METHODS: [&str; 3] = ["GET", "POST", "DELETE"];
const PATHS: [&str; 4] = ["/", "/admin", "/api/v1", "/elsewhere"];
const HOSTS: [&str; 3] = ["a.example", "b.example", "unnamed.test"];
const TOKENS: [Option<&str>; 4] = [None, Some("t"), Some("tut"), Some("unnamed")];

/// Requests that may be on their way at once: Envoy takes a client that has more answers waiting for an attacker.
const PIPELINED: usize = 2;

/// A request with this header has no token.
pub(crate) const NO_TOKEN: &str = "x-no-token";

/// The requests of a client of a set: every combination, most of them with a forged X-Forwarded-For.
pub(crate) struct Requests(Vec<String>);

impl Requests {
    /// The requests for a set. Forged addresses are other clients of the set, so that they meet its prefixes.
    pub(crate) fn new(placed: &Placed) -> Self {
        let mut requests = Vec::new();
        let mut forged = placed.set.clients.iter().cycle();
        for path in PATHS {
            for method in METHODS {
                for host in HOSTS {
                    for token in TOKENS {
                        let mut text = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\n");
                        if let Some(token) = token {
                            text += &format!("x-token: {token}\r\n");
                        }
                        let bare = requests.len().is_multiple_of(4);
                        if let Some(address) = forged.next().filter(|_| !bare) {
                            text += &format!("x-forwarded-for: 192.0.2.1, {address}\r\n");
                        }
                        requests.push(text + "content-length: 0\r\n\r\n");
                    }
                }
            }
        }
        if placed.set.tokens {
            let bare: Vec<String> = requests
                .iter()
                .map(|request| request.replace("content-length", &format!("{NO_TOKEN}: 1\r\ncontent-length")))
                .collect();
            requests.extend(bare);
        }
        if placed.set.topology == Topology::XForwardedFor {
            // Every client address once with the plainest request and with the one that names nothing.
            for address in &placed.set.clients {
                for line in [
                    "GET / HTTP/1.1\r\nhost: a.example",
                    "DELETE /elsewhere HTTP/1.1\r\nhost: unnamed.test",
                ] {
                    requests.push(format!(
                        "{line}\r\nx-forwarded-for: {address}\r\ncontent-length: 0\r\n\r\n"
                    ));
                }
            }
        }
        Self(requests)
    }
}

/// Asks as `client`; true if anything was let through.
pub(crate) fn ask(placed: &Placed, requests: &Requests, client: IpAddr, chain: Chain) -> Result<bool> {
    let topology = placed.set.topology;
    let way = placed.way(client, chain);
    let source = way.source;
    let to = SocketAddr::new(placed.pod(source), placed.port(chain));
    let start = || {
        let mut stream = connected(source, to)?;
        if topology == Topology::Proxy {
            stream
                .write_all(&proxy_header(client, way.written))
                .context("writing the PROXY header")?;
        }
        anyhow::Ok(stream)
    };
    let attempt = || match (chain, placed.set.tcp_server) {
        (Chain::Http, _) => http(&mut start()?, requests),
        (Chain::Tcp, TcpServer::Tcp) => echoed(&mut start()?, b"is anybody there\n"),
        (Chain::Tcp, TcpServer::Passthrough | TcpServer::AutoPassthrough) => {
            let mut any = echoed(&mut start()?, b"is anybody there\n")?;
            for name in HOSTS {
                any = any || echoed(&mut start()?, &client_hello(name)?)?;
            }
            Ok(any)
        }
    };
    attempt().with_context(|| format!("client {client} (from {source}) at {to}"))
}

fn connected(source: IpAddr, to: SocketAddr) -> Result<TcpStream> {
    let family = if to.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).context("making a socket")?;
    bind(fd.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(source, 0)))
        .context("binding the source address")?;
    connect(fd.as_raw_fd(), &SockaddrStorage::from(to)).context("connecting")?;
    let stream = TcpStream::from(fd);
    stream
        .set_read_timeout(Some(PATIENCE))
        .context("setting a timeout")?;
    stream
        .set_write_timeout(Some(PATIENCE))
        .context("setting a timeout")?;
    Ok(stream)
}

/// An answer's status line, and the end of the whole answer in `bytes`, once it is there.
fn answer(bytes: &[u8]) -> Result<Option<(u16, usize)>> {
    let Some(head) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(None);
    };
    let text =
        std::str::from_utf8(bytes.get(..head).unwrap_or_default()).context("reading an answer's head")?;
    let status = text
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.get(..3))
        .and_then(|code| code.parse().ok());
    let length = text
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .map_or(Ok(0), str::parse::<usize>)
        .context("reading an answer's length")?;
    let status = status.with_context(|| format!("no HTTP answer: {text}"))?;
    let end = head + 4 + length;
    Ok((bytes.len() >= end).then_some((status, end)))
}

fn http(stream: &mut TcpStream, requests: &Requests) -> Result<bool> {
    let mut waiting: Vec<u8> = Vec::new();
    let mut chunk = vec![0; 4096];
    for group in requests.0.chunks(PIPELINED) {
        stream
            .write_all(group.concat().as_bytes())
            .context("writing requests")?;
        for _ in group {
            let (status, end) = loop {
                if let Some(answer) = answer(&waiting)? {
                    break answer;
                }
                let read = stream.read(&mut chunk).context("reading answers")?;
                if read == 0 {
                    bail!("Envoy closed before it answered everything");
                }
                waiting.extend_from_slice(chunk.get(..read).unwrap_or_default());
            };
            waiting.drain(..end);
            match status {
                200 => return Ok(true),
                403 => {}
                other => bail!("Envoy answered {other}"),
            }
        }
    }
    Ok(false)
}

fn echoed(stream: &mut TcpStream, sent: &[u8]) -> Result<bool> {
    match stream.write_all(sent) {
        Ok(()) => {}
        Err(error) if closed(error.kind()) => return Ok(false),
        Err(error) => return Err(error).context("writing"),
    }
    let mut back = vec![0; sent.len()];
    match stream.read(&mut back) {
        Ok(0) => Ok(false),
        Ok(_) => {
            // Nothing depends on how the connection ends.
            let _ = stream.shutdown(Shutdown::Both);
            Ok(true)
        }
        Err(error) if closed(error.kind()) => Ok(false),
        Err(error) => Err(error).context("reading the echo"),
    }
}

/// A TLS handshake's first message, with a server name (RFC 5246 section 7.4.1.2, RFC 6066 section 3).
fn client_hello(name: &str) -> Result<Vec<u8>> {
    fn with_length(bytes: &[u8]) -> Result<Vec<u8>> {
        let length = u16::try_from(bytes.len()).context("a field of a handshake is too long")?;
        Ok([&length.to_be_bytes(), bytes].concat())
    }
    let server_name = with_length(&[&[0], with_length(name.as_bytes())?.as_slice()].concat())?;
    let groups = with_length(&[0x00, 0x1d])?;
    let signatures = with_length(&[0x04, 0x03])?;
    let mut extensions = Vec::new();
    for (number, body) in [(0_u16, server_name), (10, groups), (13, signatures)] {
        extensions.extend(number.to_be_bytes());
        extensions.extend(with_length(&body)?);
    }
    let mut hello = vec![0x03, 0x03];
    hello.extend([7; 32]);
    hello.push(0);
    hello.extend(with_length(&[0xc0, 0x2f, 0xc0, 0x2b])?);
    hello.extend([1, 0]);
    hello.extend(with_length(&extensions)?);
    let handshake = [&[1, 0], with_length(&hello)?.as_slice()].concat();
    Ok([&[0x16, 0x03, 0x01], with_length(&handshake)?.as_slice()].concat())
}

fn closed(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted
    )
}

/// Version 1 for even addresses, version 2 for odd ones.
fn proxy_header(client: IpAddr, written: SocketAddr) -> Vec<u8> {
    let (destination, port) = (written.ip(), written.port());
    let source_port: u16 = 40000;
    let (even, name) = match client {
        IpAddr::V4(address) => (address.to_bits().is_multiple_of(2), "TCP4"),
        IpAddr::V6(address) => (address.to_bits().is_multiple_of(2), "TCP6"),
    };
    if even {
        return format!("PROXY {name} {client} {destination} {source_port} {port}\r\n").into_bytes();
    }
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21".to_vec();
    match (client, destination) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            header.extend([0x11, 0, 12]);
            header.extend(from.octets());
            header.extend(to.octets());
        }
        (from, to) => {
            header.extend([0x21, 0, 36]);
            for address in [from, to] {
                match address {
                    IpAddr::V4(address) => header.extend(address.to_ipv6_mapped().octets()),
                    IpAddr::V6(address) => header.extend(address.octets()),
                }
            }
        }
    }
    header.extend(source_port.to_be_bytes());
    header.extend(port.to_be_bytes());
    header
}

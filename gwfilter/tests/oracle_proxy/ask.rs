//! Sends a batch of streams to Envoy, each on a connection of its own, and tells what Envoy made of them.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};
use gwfilter_common::testing::headers;
use gwfilter_common::testing::mutate::Random;
use gwfilter_common::testing::proxy::{Reading, Taken, envoy as slow};

use crate::envoy::{Envoy, LISTENERS};

const PATIENCE: Duration = Duration::from_secs(60);

/// What one client sends.
#[derive(Clone, Debug)]
pub(crate) struct Stream {
    /// Header, then what the client itself would say.
    pub(crate) bytes: Vec<u8>,
    /// Bytes that are sent first, alone: what the node sees in the first segment.
    pub(crate) first: usize,
    to: SocketAddr,
}

impl Stream {
    /// The stream of a seed.
    pub(crate) fn of(seed: u64) -> Self {
        let mut random = Random(seed);
        let mut bytes = headers::header(&mut random);
        let tail = format!("<{seed:016x}>").into_bytes();
        // The client's own words may look like more of the header, or like another one.
        let words: [&[u8]; 5] = [
            b"",
            b"\r\n",
            b"\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"PROXY UNKNOWN\r\n",
        ];
        bytes.extend(words.get(random.below(words.len())).copied().unwrap_or_default());
        bytes.extend(&tail);
        // A header that ends where the stream does would leave nothing to send back.
        if slow(&bytes).1 == bytes.len() {
            bytes.push(b'!');
        }
        let first = match random.below(3) {
            0 => 1 + random.below(bytes.len() - 1),
            1 => bytes.len() - tail.len(),
            _ => bytes.len(),
        };
        let [four, six] = LISTENERS;
        let to = if random.below(3) == 0 { six } else { four };
        Self { bytes, first, to }
    }

    fn first(&self) -> &[u8] {
        self.bytes.get(..self.first).unwrap_or_default()
    }

    fn rest(&self) -> &[u8] {
        self.bytes.get(self.first..).unwrap_or_default()
    }
}

/// How Envoy reads each of the streams. One that it refuses and one that it waits for in vain look alike: both are
/// [`Reading::Refused`].
pub(crate) fn ask(envoy: &mut Envoy, streams: &[Stream]) -> Result<Vec<Taken>> {
    let mut open = Vec::new();
    for stream in streams {
        let mut connection = TcpStream::connect(stream.to).context("connecting to Envoy")?;
        connection.set_nodelay(true).context("setting an option")?;
        connection
            .set_read_timeout(Some(PATIENCE))
            .context("setting a timeout")?;
        let client = connection.local_addr().context("asking for the client's port")?;
        send(&mut connection, stream.first())?;
        open.push((client, connection));
    }
    // By now Envoy has read most of the first parts alone.
    for (stream, (_, connection)) in streams.iter().zip(&mut open) {
        send(connection, stream.rest())?;
    }
    let mut answers = Vec::new();
    for (stream, (client, mut connection)) in streams.iter().zip(open) {
        answers.push((client, stream.to, echoed(&mut connection, stream)?));
    }
    let taken: Vec<SocketAddr> = answers
        .iter()
        .filter(|(_, _, header)| header.is_some())
        .map(|a| a.0)
        .collect();
    let ends = envoy.logged(&taken)?;
    answers
        .into_iter()
        .map(|(client, to, header)| {
            let Some(header) = header else {
                return Ok((Reading::Refused, 0));
            };
            let (source, destination) = *ends.get(&client).context("a connection is not in the log")?;
            let own = (source, destination) == (client, to);
            let reading = if own {
                Reading::Own
            } else {
                Reading::Ends(source, destination)
            };
            Ok((reading, header))
        })
        .collect()
}

/// A connection that Envoy has closed takes nothing more; its answer tells.
fn send(connection: &mut TcpStream, bytes: &[u8]) -> Result<()> {
    match connection.write_all(bytes) {
        Err(error) if !closed(error.kind()) => Err(error).context("writing to Envoy"),
        _ => Ok(()),
    }
}

/// How many bytes Envoy kept for itself, once the end of the stream has come back; `None` if it closes before.
fn echoed(connection: &mut TcpStream, stream: &Stream) -> Result<Option<usize>> {
    let mut back = Vec::new();
    let mut chunk = [0; 4096];
    // The end of a stream is found in it only once, and a header may reach into it.
    while back.is_empty() || !stream.bytes.ends_with(&back) {
        match connection.read(&mut chunk) {
            Ok(0) => return Ok(None),
            Ok(read) => back.extend_from_slice(chunk.get(..read).unwrap_or_default()),
            Err(error) if closed(error.kind()) => return Ok(None),
            Err(error) => return Err(error).context("reading what Envoy sends back"),
        }
    }
    Ok(Some(stream.bytes.len().saturating_sub(back.len())))
}

fn closed(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted
    )
}

//! One packet, as it is asked for.

use std::net::{IpAddr, SocketAddr};

use serde::Deserialize;

use crate::gateway::model::{Protocol, TupleKey};

/// A packet that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// Its source address.
    pub source: IpAddr,
    /// Its destination.
    pub dest: SocketAddr,
    /// Its transport protocol.
    pub protocol: Protocol,
    /// Source and destination in the PROXY header that it carries.
    pub proxy: Option<(SocketAddr, SocketAddr)>,
}

/// Why a query describes no packet.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum QueryError {
    /// Not the JSON of a query.
    #[error("no query: {reason}")]
    Json {
        /// The reader's words.
        reason: String,
    },
    /// A field does not hold what it should.
    #[error("{field} is {found:?}, not {wanted}")]
    Field {
        /// Which.
        field: &'static str,
        /// Its value.
        found: String,
        /// What is expected.
        wanted: &'static str,
    },
    /// One half of a PROXY header.
    #[error("proxy_source and proxy_dest belong together: state both or none")]
    HalfProxy,
    /// No header has addresses of two families.
    #[error(
        "proxy_source {client} and proxy_dest {dest} are of different families (a v4-mapped address is an IPv6 address)"
    )]
    HeaderFamilies {
        /// Source.
        client: SocketAddr,
        /// Destination.
        dest: SocketAddr,
    },
    /// No packet has addresses of two families.
    #[error(
        "source {source_ip} and destination {dest} are of different families (a v4-mapped address is an IPv6 address)"
    )]
    Families {
        /// Source.
        source_ip: IpAddr,
        /// Destination.
        dest: SocketAddr,
    },
}

/// Fields beyond these are ignored, so that lines of an access log can be used as they are.
#[derive(Deserialize)]
struct Line {
    source: String,
    dest: String,
    protocol: Option<String>,
    proxy_source: Option<String>,
    proxy_dest: Option<String>,
}

impl Query {
    /// The query in one line of JSON.
    ///
    /// # Errors
    /// [`QueryError`], which names the field.
    pub fn from_json(line: &[u8]) -> Result<Self, QueryError> {
        let line: Line = serde_json::from_slice(line).map_err(|e| QueryError::Json {
            reason: e.to_string(),
        })?;
        let source = line.source.parse().map_err(|_| QueryError::Field {
            field: "source",
            found: line.source,
            wanted: "an IP address without a port",
        })?;
        let protocol = match line.protocol.as_deref() {
            None | Some("tcp") => Protocol::Tcp,
            Some("udp") => Protocol::Udp,
            Some(other) => {
                return Err(QueryError::Field {
                    field: "protocol",
                    found: other.to_owned(),
                    wanted: "tcp or udp",
                });
            }
        };
        let proxy = match (line.proxy_source, line.proxy_dest) {
            (None, None) => None,
            (Some(source), Some(dest)) => {
                Some((socket("proxy_source", source)?, socket("proxy_dest", dest)?))
            }
            _ => return Err(QueryError::HalfProxy),
        };
        Self::new(source, socket("dest", line.dest)?, protocol, proxy)
    }

    /// A query whose parts fit together.
    ///
    /// # Errors
    /// [`QueryError::Families`] and [`QueryError::HeaderFamilies`].
    pub fn new(
        source: IpAddr,
        dest: SocketAddr,
        protocol: Protocol,
        proxy: Option<(SocketAddr, SocketAddr)>,
    ) -> Result<Self, QueryError> {
        if let Some((client, dest)) = proxy
            && client.is_ipv4() != dest.is_ipv4()
        {
            return Err(QueryError::HeaderFamilies { client, dest });
        }
        if source.is_ipv4() == dest.is_ipv4() {
            Ok(Self {
                source,
                dest,
                protocol,
                proxy,
            })
        } else {
            Err(QueryError::Families {
                source_ip: source,
                dest,
            })
        }
    }

    /// The destination.
    #[must_use]
    pub fn key(&self) -> TupleKey {
        TupleKey {
            addr: self.dest.ip(),
            port: self.dest.port(),
            protocol: self.protocol,
        }
    }
}

fn socket(field: &'static str, found: String) -> Result<SocketAddr, QueryError> {
    found.parse().map_err(|_| QueryError::Field {
        field,
        found,
        wanted: "IP:PORT (IPv6 in brackets)",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_json_given_bad_lines_then_the_error_names_the_field() {
        for (line, expected) in [
            ("", "no query"),
            ("[1]", "no query"),
            (r#"{"source":"10.0.0.1"}"#, "missing field `dest`"),
            (
                r#"{"source":"10.0.0.1:80","dest":"192.0.2.1:80"}"#,
                "source is \"10.0.0.1:80\"",
            ),
            (
                r#"{"source":"10.0.0.1","dest":"192.0.2.1"}"#,
                "dest is \"192.0.2.1\"",
            ),
            (
                r#"{"source":"10.0.0.1","dest":"192.0.2.1:80","protocol":"sctp"}"#,
                "protocol is \"sctp\"",
            ),
            (
                r#"{"source":"10.0.0.1","dest":"192.0.2.1:80","proxy_source":"10.0.0.2:1"}"#,
                "belong together",
            ),
            (
                r#"{"source":"10.0.0.1","dest":"192.0.2.1:80","proxy_source":"10.0.0.2:1","proxy_dest":"[::1]:1"}"#,
                "proxy_dest [::1]:1 are of different families",
            ),
            (
                r#"{"source":"::ffff:10.0.0.1","dest":"192.0.2.1:80"}"#,
                "different families",
            ),
        ] {
            let error = Query::from_json(line.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(expected), "{line}: {error}");
        }
    }

    #[test]
    fn from_json_given_a_whole_line_then_every_field_counts() {
        let line = br#"{"source":"2001:db8::1","dest":"[2001:db8::2]:443","protocol":"udp","proxy_source":"10.0.0.1:5","proxy_dest":"10.0.0.2:6","status":403}"#;
        let query = Query::from_json(line).unwrap();
        assert_eq!(query.key().to_string(), "[2001:db8::2]:443/udp");
        assert_eq!(
            query.proxy,
            Some(("10.0.0.1:5".parse().unwrap(), "10.0.0.2:6".parse().unwrap()))
        );
    }
}

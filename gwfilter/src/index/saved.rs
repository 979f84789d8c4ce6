//! The index as text, for the last good snapshot on the disk, and back. Pure: who reads and writes is elsewhere.
//!
//! Two lines of JSON: a header with format, version, node, boot, time and a checksum, and the objects. What is read back is either exactly what
//! was written or an error; a part of it would be a policy that nobody wrote.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{Index, Source};
use crate::diagnostic::{Diagnostic, ObjectRef, Severity};
use crate::object::{Object, Refused};

const FORMAT: &str = "gwfilter snapshot";

/// Version of the format. The shapes of all decoded kinds are part of it.
pub const VERSION: u32 = 2;

/// Codes of findings that a source may hold, as only the decoder and the index make them.
const CODES: [&str; 6] = [
    "ignored-kind",
    "no-kind",
    "stated-twice",
    "unreadable-list",
    "unreadable-object",
    "unsupported-version",
];

/// What a snapshot says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// Name of the node that it was taken on; empty where it has none.
    pub node: String,
    /// `/proc/sys/kernel/random/boot_id` of that time.
    pub boot_id: String,
    /// When, in seconds since 1970.
    pub saved_at: u64,
}

#[derive(Serialize, Deserialize)]
struct Header {
    format: String,
    version: u32,
    #[serde(flatten)]
    stamp: Stamp,
    sha256: String,
}

/// Why a file is no snapshot that can be used.
#[derive(Debug, thiserror::Error)]
pub enum SavedError {
    /// Not written by gwfilter, or not to its end.
    #[error("it is not a snapshot of gwfilter, or its beginning is damaged")]
    Header(#[source] Option<serde_json::Error>),
    /// Another version of gwfilter wrote it.
    #[error("its format has version {0}, and this gwfilter reads version {VERSION} only")]
    Version(u32),
    /// It was cut off or changed.
    #[error("it is damaged: its checksum does not fit")]
    Checksum,
    /// The checksum fits and the objects are not what this version writes.
    #[error("its objects cannot be read")]
    Objects(#[source] serde_json::Error),
    /// It is of another node.
    #[error("it was taken on the node {there:?}, and this is {here:?}")]
    Foreign {
        /// The node that it is of.
        there: String,
        /// The node that this is.
        here: String,
    },
}

#[derive(Serialize)]
struct Written<'a> {
    objects: Vec<&'a Object>,
    lost: &'a BTreeSet<Refused>,
    diagnostics: Vec<Finding>,
    unreadable: Option<&'a str>,
    was_read: bool,
    stale: &'a BTreeSet<IpAddr>,
}

#[derive(Deserialize)]
struct Read {
    objects: Vec<Object>,
    lost: BTreeSet<Refused>,
    diagnostics: Vec<Finding>,
    unreadable: Option<String>,
    was_read: bool,
    stale: BTreeSet<IpAddr>,
}

#[derive(Serialize, Deserialize)]
struct Finding {
    severity: Severity,
    code: String,
    object: ObjectRef,
    message: String,
}

/// The index and its stamp, as what is to be on the disk.
///
/// # Errors
/// Something in it has no form in JSON. No decoded object is known to.
pub fn encode(index: &Index, stamp: &Stamp) -> Result<Vec<u8>, serde_json::Error> {
    let sources = index.sources.iter().map(|(name, source)| {
        let written = Written {
            objects: source.objects.values().collect(),
            lost: &source.lost,
            diagnostics: source.diagnostics.iter().map(finding).collect(),
            unreadable: source.unreadable.as_deref(),
            was_read: source.was_read,
            stale: &source.stale,
        };
        (name, written)
    });
    let body = serde_json::to_vec(&sources.collect::<BTreeMap<_, _>>())?;
    let header = Header {
        format: FORMAT.to_owned(),
        version: VERSION,
        stamp: stamp.clone(),
        sha256: checksum(&body),
    };
    let mut text = serde_json::to_vec(&header)?;
    text.push(b'\n');
    text.extend(body);
    text.push(b'\n');
    Ok(text)
}

/// Reads back what [`encode`] wrote. A source that could not be read when it was written had a last good version or had none; only
/// the latter is remembered.
///
/// # Errors
/// It is not what [`encode`] wrote.
pub fn decode(text: &[u8]) -> Result<(Stamp, Index), SavedError> {
    let mut lines = text.splitn(2, |byte| *byte == b'\n');
    let (Some(header), Some(body)) = (lines.next(), lines.next()) else {
        return Err(SavedError::Header(None));
    };
    let version = |value: &serde_json::Value| {
        let ours = value.get("format").and_then(serde_json::Value::as_str) == Some(FORMAT);
        let version = value.get("version").and_then(serde_json::Value::as_u64);
        ours.then_some(version).flatten()
    };
    let value: serde_json::Value = serde_json::from_slice(header).map_err(|e| SavedError::Header(Some(e)))?;
    match version(&value).map(u32::try_from) {
        Some(Ok(VERSION)) => {}
        Some(other) => return Err(SavedError::Version(other.unwrap_or(u32::MAX))),
        None => return Err(SavedError::Header(None)),
    }
    let header: Header = serde_json::from_value(value).map_err(|e| SavedError::Header(Some(e)))?;
    let Some(body) = body.strip_suffix(b"\n") else {
        return Err(SavedError::Checksum);
    };
    if checksum(body) != header.sha256 {
        return Err(SavedError::Checksum);
    }
    let sources: BTreeMap<String, Read> = serde_json::from_slice(body).map_err(SavedError::Objects)?;
    let sources = sources.into_iter().map(|(name, read)| (name, source(read)));
    let index = Index {
        sources: sources.collect(),
    };
    Ok((header.stamp, index))
}

/// A snapshot that an agent on this node can begin with.
#[derive(Clone, Debug)]
pub struct LastGood {
    /// The objects.
    pub index: Index,
    /// How old they are, in seconds; `None` if the clock says that they are of the future.
    pub age_secs: Option<u64>,
    /// The node was restarted since: addresses of pods are not used.
    pub restarted: bool,
}

/// As [`decode`], for this node, this boot and this time (seconds since 1970).
///
/// # Errors
/// It is not what [`encode`] wrote, or not of this node.
pub fn accept(text: &[u8], here: &Stamp) -> Result<LastGood, SavedError> {
    let (stamp, mut index) = decode(text)?;
    if stamp.node != here.node {
        return Err(SavedError::Foreign {
            there: stamp.node,
            here: here.node.clone(),
        });
    }
    let restarted = stamp.boot_id != here.boot_id;
    if restarted {
        index.distrust_pod_addresses();
    }
    Ok(LastGood {
        index,
        age_secs: here.saved_at.checked_sub(stamp.saved_at),
        restarted,
    })
}

fn checksum(body: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(64);
    for byte in Sha256::digest(body) {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn finding(diagnostic: &Diagnostic) -> Finding {
    let Diagnostic {
        severity,
        code,
        object,
        message,
    } = diagnostic;
    Finding {
        severity: *severity,
        code: (*code).to_owned(),
        object: object.clone(),
        message: message.clone(),
    }
}

fn source(read: Read) -> Source {
    let Read {
        objects,
        lost,
        diagnostics,
        unreadable,
        was_read,
        stale,
    } = read;
    let objects = objects
        .into_iter()
        .filter_map(|object| Some((object.key()?, object)));
    let diagnostics = diagnostics.into_iter().map(|finding| Diagnostic {
        severity: finding.severity,
        code: CODES
            .into_iter()
            .find(|code| *code == finding.code)
            .unwrap_or("saved-finding"),
        object: finding.object,
        message: finding.message,
    });
    Source {
        objects: objects.collect(),
        lost,
        diagnostics: diagnostics.collect(),
        unreadable: unreadable.filter(|_| !was_read),
        was_read,
        stale,
        watches: None,
        directory: false,
    }
}

#[cfg(test)]
mod tests;

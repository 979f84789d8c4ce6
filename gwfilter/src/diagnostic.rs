//! What a user should know about their objects: findings of the pure part, never errors of it.
//!
//! Bad input is not an `Err`: it compiles to less enforcement and a diagnostic that says so.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Before the first of several ways to mend something, in a text.
const EITHER: &str = "; either: ";
/// Before each further one.
const OR: &str = "; or: ";

/// A text as lines: what is the matter, and where there are several ways to mend it, each of them.
#[must_use]
pub fn lines(text: &str) -> Vec<String> {
    let Some((matter, mends)) = text.split_once(EITHER) else {
        return vec![text.to_owned()];
    };
    let words = std::iter::once("either: ").chain(std::iter::repeat("or: "));
    let mends = words
        .zip(mends.split(OR))
        .map(|(word, mend)| format!("{word}{mend}"));
    std::iter::once(matter.to_owned()).chain(mends).collect()
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Severity {
    /// Something the user wrote cannot be used as they meant it.
    Error,
    /// Something is left to the gateway, or probably not meant.
    Warning,
    /// Worth knowing.
    Info,
}

impl Severity {
    /// The public lower-case name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
        }
    }
}

/// The object a diagnostic is about, printed as `Kind ns/name` (or `Kind name`, the path of a file or directory say).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectRef {
    /// `AuthorizationPolicy`, `Service`, … or `File`, `Directory`.
    pub kind: String,
    /// Empty for cluster-scoped objects and files.
    pub namespace: String,
    /// Name, or path.
    pub name: String,
}

impl ObjectRef {
    /// A reference from its three parts.
    #[must_use]
    pub fn new(kind: &str, namespace: &str, name: &str) -> Self {
        Self {
            kind: kind.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Diagnostic {
    /// How bad.
    pub severity: Severity,
    /// Stable kebab-case code.
    pub code: &'static str,
    /// What it is about.
    pub object: ObjectRef,
    /// One sentence: what was found, what follows, what to do.
    pub message: String,
}

impl Diagnostic {
    /// An error.
    #[must_use]
    pub fn error(code: &'static str, object: ObjectRef, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            code,
            object,
            message: message.into(),
        }
    }

    /// A warning.
    #[must_use]
    pub fn warning(code: &'static str, object: ObjectRef, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            code,
            object,
            message: message.into(),
        }
    }

    /// An information.
    #[must_use]
    pub fn info(code: &'static str, object: ObjectRef, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Info,
            code,
            object,
            message: message.into(),
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}[{}] {}: {}",
            self.severity.name(),
            self.code,
            self.object,
            self.message
        )
    }
}

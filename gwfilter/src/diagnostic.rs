//! What a user should know about their objects: findings of the pure part, never errors of it.
//!
//! Bad input is not an `Err`: it compiles to less enforcement and a diagnostic that says so.

use std::cmp::Ordering;
use std::collections::BTreeMap;
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

/// How many findings of one object are listed.
pub const PER_OBJECT: usize = 20;
/// How many of all objects of one namespace, so that nobody's can push out those of others.
pub const PER_NAMESPACE: usize = 200;
/// How many in all.
pub const IN_ALL: usize = 2_000;

/// What stands for findings that are not listed.
const MORE: &str = "more-findings";

/// Cuts a list of findings, most severe first, to what can be read: of each object, of each namespace and in all. What is left out is counted, in
/// one finding where it is missing, as severe as the worst of it.
#[must_use]
pub fn listed(findings: Vec<Diagnostic>) -> Vec<Diagnostic> {
    let by_object = cut(findings, PER_OBJECT, |d| Some(d.object.clone()));
    let by_namespace = cut(by_object, PER_NAMESPACE, |d| {
        let namespace = &d.object.namespace;
        (!namespace.is_empty()).then(|| ObjectRef::new("Namespace", "", namespace))
    });
    let all = ObjectRef::new("Findings", "", "of all objects");
    cut(by_namespace, IN_ALL, |_| Some(all.clone()))
}

/// At most `most` findings of each group, which is told by what its count is said of; all of what is in none.
fn cut(
    findings: Vec<Diagnostic>,
    most: usize,
    group: impl Fn(&Diagnostic) -> Option<ObjectRef>,
) -> Vec<Diagnostic> {
    if findings.len() <= most {
        return findings;
    }
    let mut seen: BTreeMap<ObjectRef, (usize, Severity)> = BTreeMap::new();
    let mut kept = Vec::with_capacity(findings.len().min(IN_ALL));
    for finding in findings {
        let Some(of) = group(&finding) else {
            kept.push(finding);
            continue;
        };
        let (count, worst) = seen.entry(of).or_insert((0, Severity::Info));
        *count += 1;
        if *count > most {
            *worst = finding.severity.min(*worst);
        } else {
            kept.push(finding);
        }
    }
    for (object, (count, severity)) in seen {
        let Some(more) = count.checked_sub(most).filter(|more| *more > 0) else {
            continue;
        };
        let message = format!(
            "and {more} more, which are not listed: the first {most}, the most severe, are; mend those first"
        );
        kept.push(Diagnostic {
            severity,
            code: MORE,
            object,
            message,
        });
    }
    kept.sort_by(Diagnostic::order);
    kept
}

impl Diagnostic {
    /// The order of lists: by severity, object, code and message.
    #[must_use]
    pub fn order(&self, other: &Self) -> Ordering {
        (self.severity, &self.object, self.code, &self.message).cmp(&(
            other.severity,
            &other.object,
            other.code,
            &other.message,
        ))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(severity: Severity, (namespace, name): (&str, &str), message: usize) -> Diagnostic {
        let object = ObjectRef::new("Service", namespace, name);
        let mut finding = Diagnostic::info("x", object, format!("{message:05}"));
        finding.severity = severity;
        finding
    }

    fn sorted(mut all: Vec<Diagnostic>) -> Vec<Diagnostic> {
        all.sort_by(Diagnostic::order);
        listed(all)
    }

    fn said(all: &[Diagnostic]) -> Vec<String> {
        let more = all.iter().filter(|d| d.code == MORE);
        more.map(|d| {
            let number = d.message.split(' ').nth(1).unwrap();
            format!("{} {} {number}", d.severity.name(), d.object)
        })
        .collect()
    }

    #[test]
    fn few_findings_then_all_of_them() {
        let all: Vec<_> = (0..PER_OBJECT)
            .map(|n| finding(Severity::Info, ("a", "b"), n))
            .collect();
        assert_eq!(sorted(all.clone()), all);
    }

    #[test]
    fn many_of_one_object_then_the_most_severe_and_a_count_as_severe_as_the_worst_left_out() {
        let of = |severity, n| finding(severity, ("a", "b"), n);
        let mut all: Vec<_> = (0..25).map(|n| of(Severity::Info, n)).collect();
        all.extend((0..22).map(|n| of(Severity::Error, 100 + n)));
        all.push(finding(Severity::Info, ("a", "c"), 1));
        let listed = sorted(all);
        assert_eq!(said(&listed), ["error Service a/b 27"]);
        assert_eq!(listed.len(), PER_OBJECT + 2, "{listed:?}");
    }

    #[test]
    fn one_namespaces_objects_then_they_push_out_nobody_elses() {
        let mut all: Vec<_> = (0..3_000)
            .map(|n| finding(Severity::Error, ("evil", &format!("{n:04}")), n))
            .collect();
        all.push(finding(Severity::Info, ("good", "z"), 1));
        let listed = sorted(all);
        assert_eq!(said(&listed), ["error Namespace evil 2800"]);
        assert_eq!(listed.len(), PER_NAMESPACE + 2);
        assert!(listed.iter().any(|d| d.object.namespace == "good"));
    }

    #[test]
    fn many_namespaces_then_so_many_in_all_and_the_rest_counted() {
        let all: Vec<_> = (0..3_000)
            .map(|n| {
                finding(
                    Severity::Warning,
                    (&format!("{:02}", n % 20), &format!("{n:04}")),
                    n,
                )
            })
            .collect();
        let listed = sorted(all);
        assert_eq!(said(&listed), ["warning Findings of all objects 1000"]);
        assert_eq!(listed.len(), IN_ALL + 1);
    }
}

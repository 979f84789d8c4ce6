//! What is said as Kubernetes Events: which objects, which words, which name, how often. Pure; `kube::events` writes them.
//!
//! One notice for an object at a time: what of it is left to the gateway and why, on the policy and on the Service; and that it is enforced again. Only gateways with a
//! pod on this node are spoken of, so it is the nodes concerned that speak; they all derive the same name, so one Event comes of it.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest as _, Sha256};

use crate::diagnostic::{Diagnostic, ObjectRef, Severity};
use crate::gateway::model::Gateway;
use crate::pipeline::Built;
use crate::report::{EnforcedAt, GatewayReport, PolicyReport};

/// The longest message, in bytes; the API takes 1,024.
const MESSAGE: usize = 1000;
/// The longest part of an object's name that goes into an Event's, in bytes.
const NAME: usize = 200;

/// What is said of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Notice {
    /// Machine-readable, in CamelCase.
    pub reason: String,
    /// Its type is `Warning`, else `Normal`.
    pub warning: bool,
    /// A sentence or more.
    pub message: String,
}

/// The AuthorizationPolicies and Services of the gateways here, with what is to be said of each; `None`: it is enforced.
pub type Notices = BTreeMap<ObjectRef, Option<Notice>>;

/// The name of the Event: the same on every node that says the same.
#[must_use]
pub fn event_name(object: &ObjectRef, notice: &Notice) -> String {
    let mut hash = Sha256::new();
    for part in [
        &object.kind,
        &object.namespace,
        &object.name,
        &notice.reason,
        &notice.message,
    ] {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    let hash = hash.finalize();
    let digits: String = hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    // What is cut must not end in a dot or dash that the next character would make wrong.
    let name = cut(&object.name, NAME).trim_end_matches(['.', '-']);
    format!("{name}.{digits}")
}

/// The beginning of a text, on a character's boundary.
fn cut(text: &str, bytes: usize) -> &str {
    let end = (0..=bytes.min(text.len()))
        .rev()
        .find(|at| text.is_char_boundary(*at));
    end.and_then(|end| text.get(..end)).unwrap_or_default()
}

/// `kebab-case` to `CamelCase`.
fn camel(code: &str) -> String {
    let word = |word: &str| {
        let mut letters = word.chars();
        letters
            .next()
            .into_iter()
            .flat_map(char::to_uppercase)
            .chain(letters)
            .collect::<String>()
    };
    code.split('-').map(word).collect()
}

/// What a generation gives to say.
#[must_use]
pub fn select(built: &Built) -> Notices {
    let mut notices = Notices::new();
    let local: Vec<(&Gateway, &GatewayReport)> = built
        .gateways
        .iter()
        .zip(&built.reports)
        .filter(|(gateway, _)| gateway.listeners.iter().any(|l| !l.receivers.is_empty()))
        .collect();
    if local.is_empty() {
        return notices;
    }
    let mut findings: BTreeMap<&ObjectRef, Vec<&Diagnostic>> = BTreeMap::new();
    for diagnostic in built.diagnostics.iter().filter(|d| d.severity != Severity::Info) {
        // They come with the most severe first.
        findings.entry(&diagnostic.object).or_default().push(diagnostic);
    }
    for (gateway, report) in &local {
        let object = ObjectRef::new("Service", &gateway.namespace, &gateway.name);
        let found = findings.get(&object).into_iter().flatten();
        // The report repeats what is found of the Service itself.
        let more = found.map(|d| d.message.as_str());
        let why = report.why.iter().map(String::as_str);
        let more = more.filter(|m| !report.why.iter().any(|w| w.contains(m)));
        let message = why.chain(more).collect::<Vec<_>>().join("; ");
        let (reason, warning) = match (report.enforced, message.is_empty()) {
            (true, true) => {
                notices.insert(object, None);
                continue;
            }
            (true, false) => ("EnforcedInPart", false),
            (false, _) => ("NotEnforced", true),
        };
        insert(&mut notices, object, reason, warning, &message);
    }
    for policy in local.iter().flat_map(|(_, report)| &report.policies) {
        left(&mut notices, policy);
    }
    let here: BTreeSet<&str> = local
        .iter()
        .flat_map(|(_, report)| &report.policies)
        .map(|policy| policy.name.as_str())
        .collect();
    // What is wrong with a policy itself says more than what follows from it.
    for (object, found) in findings {
        let Some(first) = found.first().filter(|_| object.kind == "AuthorizationPolicy") else {
            continue;
        };
        // One that cannot be read may be for any gateway.
        let unread = matches!(first.code, "unreadable-object" | "unsupported-version");
        if unread || here.contains(format!("{}/{}", object.namespace, object.name).as_str()) {
            let all: Vec<&str> = found.iter().map(|d| d.message.as_str()).collect();
            let warning = first.severity == Severity::Error;
            insert(
                &mut notices,
                object.clone(),
                &camel(first.code),
                warning,
                &all.join("; "),
            );
        }
    }
    notices
}

fn insert(notices: &mut Notices, object: ObjectRef, reason: &str, warning: bool, message: &str) {
    let notice = Notice {
        reason: reason.to_owned(),
        warning,
        message: cut(message, MESSAGE).to_owned(),
    };
    notices.insert(object, Some(notice));
}

/// Rules that the gateway has to judge, or some of them.
fn left(notices: &mut Notices, policy: &PolicyReport) {
    let Some((namespace, name)) = policy.name.split_once('/') else {
        return;
    };
    if policy.dry_run || !matches!(policy.action.as_str(), "ALLOW" | "DENY") {
        return;
    }
    let object = ObjectRef::new("AuthorizationPolicy", namespace, name);
    let rules: Vec<String> = policy
        .rules
        .iter()
        .filter(|rule| rule.enforced_at != EnforcedAt::Node)
        .map(|rule| format!("{}: {}", rule.id, rule.whole_why()))
        .collect();
    if rules.is_empty() {
        // Another gateway may leave some of it.
        notices.entry(object).or_insert(None);
        return;
    }
    let message = format!(
        "the gateway judges it, the node not or not alone: {}",
        rules.join("; ")
    );
    insert(notices, object, "LeftToGateway", false, &message);
}

/// Remembers what was said, and how much may be said.
#[derive(Debug)]
pub struct Speaker {
    said: BTreeMap<ObjectRef, Notice>,
    /// Milliseconds that are saved up; an Event costs [`Self::EVERY_MS`].
    credit: u64,
    at_ms: u64,
}

impl Speaker {
    /// How many may be said at once.
    const BURST: u64 = 20;
    /// From one Event to the next when that is used up, in milliseconds.
    const EVERY_MS: u64 = 10_000;

    /// Nothing is said yet.
    #[must_use]
    pub const fn new(now_ms: u64) -> Self {
        Self {
            said: BTreeMap::new(),
            credit: Self::BURST * Self::EVERY_MS,
            at_ms: now_ms,
        }
    }

    /// What is to be said now, of what holds now; and how many had to be kept for later. They are said with a later call, if they still hold.
    pub fn speak(&mut self, now: &Notices, now_ms: u64) -> (Vec<(ObjectRef, Notice)>, usize) {
        let more = now_ms.saturating_sub(self.at_ms);
        self.credit = self.credit.saturating_add(more).min(Self::BURST * Self::EVERY_MS);
        self.at_ms = now_ms;
        let mut out = Vec::new();
        let mut kept = 0;
        // What this node has nothing to do with any more is not spoken of, either way.
        self.said.retain(|object, _| now.contains_key(object));
        for (object, notice) in now {
            let due = match (notice, self.said.get(object)) {
                (Some(notice), said) => (said != Some(notice)).then(|| notice.clone()),
                (None, Some(_)) => Some(all_well()),
                (None, None) => None,
            };
            let Some(due) = due else { continue };
            if self.credit < Self::EVERY_MS {
                kept += 1;
                continue;
            }
            self.credit -= Self::EVERY_MS;
            match notice {
                Some(notice) => self.said.insert(object.clone(), notice.clone()),
                None => self.said.remove(object),
            };
            out.push((object.clone(), due));
        }
        (out, kept)
    }
}

/// Said where something else was said before.
fn all_well() -> Notice {
    Notice {
        reason: "Enforced".to_owned(),
        warning: false,
        message: "nothing of it is left to the gateway alone any more".to_owned(),
    }
}

#[cfg(test)]
mod tests;

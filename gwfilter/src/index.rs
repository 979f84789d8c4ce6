//! Objects by identity - apply, delete, reset - and the snapshot taken of them.
//!
//! Each object belongs to a source: a file, or a watch. What a source said last stays until it says something else.
//! An object of a file that nobody can read keeps its last good version: nothing applied the new one. One of a watch does
//! not: the cluster runs the new version already, whatever it says. What is left without a version becomes a known unknown
//! ([`Snapshot::lost`], [`Snapshot::knows_policies_of`]).

pub mod saved;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::diagnostic::{Diagnostic, ObjectRef};
use crate::manifest::{self, ManifestError};
use crate::object::{self, Key, Kind, Object, Refused};
use crate::snapshot::Snapshot;
use crate::snapshot::unread::Subject;

/// Everything that is known, by source and identity.
#[derive(Clone, Debug, Default)]
pub struct Index {
    sources: BTreeMap<String, Source>,
}

#[derive(Clone, Debug, Default)]
struct Source {
    objects: BTreeMap<Key, Object>,
    /// Refused, and no last good version.
    lost: BTreeSet<Refused>,
    diagnostics: Vec<Diagnostic>,
    /// Why it cannot be read now.
    unreadable: Option<String>,
    /// It could be read once: what it said then is in `objects`.
    was_read: bool,
    /// Addresses of pods that another pod may have by now.
    stale: BTreeSet<IpAddr>,
    /// A watch, and what it speaks of; `None`: a file or directory.
    watches: Option<Subject>,
    /// A directory, whose files are sources of their own.
    directory: bool,
}

impl Index {
    /// An empty index.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces a source by the objects of a manifest. If it cannot be read, its last good version stays.
    ///
    /// # Errors
    /// Why it cannot be read; the index remembers it too.
    pub fn load(&mut self, source: &str, manifest: &[u8]) -> Result<(), ManifestError> {
        let documents = match manifest::parse(manifest) {
            Ok(documents) => documents,
            Err(error) => {
                self.unreadable(source, &error.to_string());
                return Err(error);
            }
        };
        let mut objects = Vec::new();
        let mut diagnostics = Vec::new();
        for document in documents {
            let (more, found) = object::decode(&document.value);
            objects.extend(more);
            diagnostics.extend(found);
        }
        self.reset(source, objects, diagnostics);
        Ok(())
    }

    /// Notes that a source is a watch and what it speaks of (again after the index was read back from the disk). Until it has said something, that counts as not read.
    pub fn declare(&mut self, source: &str, subject: Subject) {
        self.sources.entry(source.to_owned()).or_default().watches = Some(subject);
    }

    /// Notes that a source is a directory that was read: it has no objects itself, and is no gap in what is known if it vanishes.
    pub fn directory(&mut self, source: &str) {
        self.reset(source, Vec::new(), Vec::new());
        self.sources.entry(source.to_owned()).or_default().directory = true;
    }

    /// Notes that a source cannot be read now. What it said last stays.
    pub fn unreadable(&mut self, source: &str, why: &str) {
        self.sources.entry(source.to_owned()).or_default().unreadable = Some(why.to_owned());
    }

    /// Notes that a source can be read again, and that what it said last still holds. False: that was known.
    pub fn readable(&mut self, source: &str) -> bool {
        let source = self.sources.get_mut(source);
        source.is_some_and(|source| source.unreadable.take().is_some())
    }

    /// Replaces everything that a source said.
    pub fn reset(&mut self, source: &str, objects: Vec<Object>, diagnostics: Vec<Diagnostic>) {
        let old = self.sources.remove(source).unwrap_or_default();
        let mut last = old.objects;
        if old.watches.is_some() {
            let refused = objects.iter().filter(|o| matches!(o, Object::Refused(_)));
            for key in refused.filter_map(Object::key) {
                last.remove(&key);
            }
        }
        let mut new = Source {
            diagnostics,
            was_read: true,
            watches: old.watches,
            ..Source::default()
        };
        for object in objects {
            let twice = object
                .key()
                .filter(|key| new.objects.get(key).is_some_and(|other| *other != object));
            if let Some(key) = twice {
                new.diagnostics.push(stated_twice(&key, &[source]));
                new.objects.remove(&key);
                new.lost.insert(refusal(&key));
            } else {
                new.put(object, &mut last);
            }
        }
        self.sources.insert(source.to_owned(), new);
    }

    /// Adds or replaces one object of a watch. False: that is what it said already, as far as anything depends on it.
    pub fn apply(&mut self, source: &str, object: Object, diagnostics: Vec<Diagnostic>) -> bool {
        let source = self.sources.entry(source.to_owned()).or_default();
        if diagnostics.is_empty()
            && let Some(key) = object.key()
            && source.objects.get(&key) == Some(&object)
            && !source.finds(&key)
        {
            return false;
        }
        source.was_read = true;
        let mut last = BTreeMap::new();
        if let Some(key) = object.key() {
            source.forget(&key);
            let old = source.objects.remove_entry(&key);
            last.extend(old.filter(|_| !matches!(object, Object::Refused(_))));
        }
        source.put(object, &mut last);
        source.diagnostics.extend(diagnostics);
        true
    }

    /// Removes one object of a source. False: it was not there.
    pub fn delete(&mut self, source: &str, key: &Key) -> bool {
        let Some(source) = self.sources.get_mut(source) else {
            return false;
        };
        let known = source.objects.remove(key).is_some();
        let lost = source.lost.contains(&refusal(key)) || source.finds(key);
        source.forget(key);
        known || lost
    }

    /// Removes a source and all it said.
    pub fn remove(&mut self, source: &str) {
        self.sources.remove(source);
    }

    /// The names of all sources.
    pub fn sources(&self) -> impl Iterator<Item = &str> {
        self.sources.keys().map(String::as_str)
    }

    /// Keeps only sources of these names.
    pub fn retain(&mut self, names: &[&str]) {
        self.sources.retain(|name, _| names.contains(&name.as_str()));
    }

    /// Notes that pods may have other addresses than the sources say, as after a reboot: until a source is reset, no destination is
    /// judged at an address that it gives to a pod. Those of nodes, which pods on the host's network share, are as good as before.
    pub fn distrust_pod_addresses(&mut self) {
        let all = || self.sources.values().flat_map(|source| source.objects.values());
        let nodes: BTreeSet<IpAddr> = all()
            .filter_map(|object| match object {
                Object::Node(node) => Some(&node.addresses),
                _ => None,
            })
            .flatten()
            .copied()
            .collect();
        for source in self.sources.values_mut() {
            let mut addresses: BTreeSet<IpAddr> = BTreeSet::new();
            for object in source.objects.values() {
                match object {
                    Object::Pod(pod) if !pod.spec.host_network => addresses.extend(&pod.ips),
                    Object::EndpointSlice(slice) => {
                        addresses.extend(slice.endpoints.iter().flat_map(|e| &e.addresses));
                    }
                    _ => {}
                }
            }
            source.stale = &addresses - &nodes;
        }
    }

    /// An ordered view of everything.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        let mut all: BTreeMap<&Key, Vec<(&str, &Object)>> = BTreeMap::new();
        for (name, source) in &self.sources {
            snapshot.stale_addresses.extend(&source.stale);
            for (key, object) in &source.objects {
                all.entry(key).or_default().push((name, object));
            }
            snapshot.diagnostics.extend(source.diagnostics.iter().cloned());
            for refused in &source.lost {
                snapshot.lose(refused.clone());
            }
            source.say_unread(name, &mut snapshot);
        }
        for (key, stated) in all {
            let Some(((_, first), others)) = stated.split_first() else {
                continue;
            };
            // Two watches of one object tell its changes at different moments. The one of its kind counts.
            let watched = stated
                .iter()
                .map(|(name, object)| Some((self.sources.get(*name)?.watches?, *object)))
                .collect::<Option<Vec<_>>>();
            let watched = watched.and_then(|all| all.into_iter().min_by_key(|(subject, _)| *subject));
            if let Some((_, object)) = watched {
                snapshot.add(object.clone());
            } else if others.iter().all(|(_, other)| other == first) {
                snapshot.add((*first).clone());
            } else {
                let sources: Vec<&str> = stated.iter().map(|(source, _)| *source).collect();
                snapshot.diagnostics.push(stated_twice(key, &sources));
                snapshot.lose(refusal(key));
            }
        }
        snapshot.lost.sort();
        snapshot
    }
}

impl Source {
    fn put(&mut self, object: Object, last: &mut BTreeMap<Key, Object>) {
        match (object, &mut self.objects) {
            (Object::Refused(refused), objects) => {
                let key = Object::Refused(refused.clone()).key();
                match key.and_then(|key| last.remove_entry(&key)) {
                    Some((key, good)) => {
                        objects.insert(key, good);
                    }
                    None => {
                        self.lost.insert(refused);
                    }
                }
            }
            (object, objects) => {
                // Only a refused object may lack an identity. One that was lost to a contradiction stays lost.
                if let Some(key) = object.key()
                    && !self.lost.contains(&refusal(&key))
                {
                    // The same object again stays the one that it is: what was made of it is known by where it lies.
                    let object = last.remove(&key).filter(|last| *last == object).unwrap_or(object);
                    objects.insert(key, object);
                }
            }
        }
    }

    /// Whether there is a finding about an object.
    fn finds(&self, key: &Key) -> bool {
        let reference = key.reference();
        self.diagnostics.iter().any(|d| d.object == reference)
    }

    /// What is said of a source that cannot be read.
    fn say_unread(&self, name: &str, snapshot: &mut Snapshot) {
        let silent = "the API server has not answered yet";
        let why = match (&self.unreadable, self.watches) {
            (Some(why), _) => why,
            (None, Some(_)) if !self.was_read => silent,
            (None, _) => return,
        };
        let Some(subject) = self.watches else {
            let stays = if self.was_read {
                "its last good version stays in force"
            } else {
                snapshot.complete = false;
                snapshot.unread.input = true;
                "it has no last good version, so default-deny is not enforced"
            };
            let kind = if self.directory { "Directory" } else { "File" };
            let (file, text) = (ObjectRef::new(kind, "", name), format!("{why}; {stays}"));
            snapshot
                .diagnostics
                .push(Diagnostic::error("unreadable-input", file, text));
            return;
        };
        let watch = ObjectRef::new("Watch", "", name);
        if self.was_read {
            let text = format!("{why}; what is known of it stays in force, and changes are not seen");
            snapshot
                .diagnostics
                .push(Diagnostic::warning("unreadable-input", watch, text));
            return;
        }
        snapshot.complete &= subject != Subject::Kind(Kind::AuthorizationPolicy);
        snapshot.unread.watches.insert(subject, why.to_owned());
        let text = format!("{why}; until it can be read, {}", subject.cost());
        snapshot
            .diagnostics
            .push(Diagnostic::error("unread-kind", watch, text));
    }

    fn forget(&mut self, key: &Key) {
        self.lost.remove(&refusal(key));
        let reference = key.reference();
        self.diagnostics.retain(|d| d.object != reference);
    }
}

fn refusal(key: &Key) -> Refused {
    Refused {
        kind: Some(key.kind),
        namespace: Some(key.namespace.clone()),
        name: Some(key.name.clone()),
    }
}

/// Which of two versions the cluster holds depends on the order they were applied in: neither is believed.
fn stated_twice(key: &Key, sources: &[&str]) -> Diagnostic {
    let message = format!(
        "it is stated more than once and differently ({}); which one the cluster holds is not known, so neither is \
         used; keep one",
        sources.join(", ")
    );
    Diagnostic::error("stated-twice", key.reference(), message)
}

#[cfg(test)]
mod tests;

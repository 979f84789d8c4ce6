//! Which changes on disk are ripe to be read. Pure: listings in, decisions out.
//!
//! A file that is being written, or a checkout that replaces many files one by one, passes through states that nobody meant: half
//! a list of addresses, one policy of two. Compiled, such a state could refuse what the user allows. So a change is taken only when the
//! *whole* listing has stood still from one look to the next. Input that never comes to rest is not waited for for
//! ever: after [`PATIENCE`] looks, those files are taken that have stood still themselves.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// Looks at a restless listing before its quiet files are taken on their own.
pub const PATIENCE: u32 = 10;

/// What tells one version of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    /// Device and inode: a rename-over and a symlink swap change them.
    pub identity: (u64, u64),
    /// Length in bytes.
    pub len: u64,
    /// Time of the last modification, seconds and nanoseconds.
    pub modified: (i64, i64),
    /// Time of the last change of the inode, seconds and nanoseconds.
    pub changed: (i64, i64),
}

/// The files of an origin; `None` for a file that is there but cannot be looked at.
pub type Listing = BTreeMap<PathBuf, Option<Fingerprint>>;

/// What to do after a look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ripe {
    /// To be read.
    pub read: Vec<PathBuf>,
    /// Deleted.
    pub gone: Vec<PathBuf>,
    /// The listing has been restless for [`PATIENCE`] looks.
    pub restless: bool,
}

/// Remembers what was seen and what was taken.
#[derive(Debug, Default)]
pub struct Tracker {
    last: Option<Listing>,
    /// What was read, with the fingerprint it had; `None` for a version that must be read again.
    taken: BTreeMap<PathBuf, Option<Fingerprint>>,
    unrest: u32,
}

impl Tracker {
    /// Decides what of this listing is ripe. The first listing is taken whole, and read once more at the next look: what
    /// was written in the very moment of the first reading would have the same time stamp.
    pub fn look(&mut self, now: Listing) -> Ripe {
        let Some(last) = self.last.replace(now.clone()) else {
            let read: Vec<PathBuf> = now.keys().cloned().collect();
            self.taken = read.iter().map(|p| (p.clone(), None)).collect();
            return Ripe {
                read,
                ..Ripe::default()
            };
        };
        let quiet = last == now;
        self.unrest = if quiet { 0 } else { self.unrest.saturating_add(1) };
        let restless = self.unrest >= PATIENCE;
        if !quiet && !restless {
            return Ripe::default();
        }
        let settled = |p: &PathBuf| last.get(p) == now.get(p);
        let read = now
            .iter()
            .filter(|(p, f)| settled(p) && (f.is_none() || self.taken.get(*p) != Some(*f)))
            .map(|(p, _)| p.clone())
            .collect();
        let gone: Vec<PathBuf> = self
            .taken
            .keys()
            .filter(|p| settled(p) && !now.contains_key(*p))
            .cloned()
            .collect();
        for p in &gone {
            self.taken.remove(p);
        }
        Ripe { read, gone, restless }
    }

    /// Offers every file anew, when it has come to rest.
    pub fn forget_versions(&mut self) {
        for version in self.taken.values_mut() {
            *version = None;
        }
    }

    /// Notes that this version of a file was taken. A version that was not noted is offered again at the next look.
    pub fn took(&mut self, path: PathBuf, version: Fingerprint) {
        self.taken.insert(path, Some(version));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(n: i64) -> Option<Fingerprint> {
        Some(Fingerprint {
            identity: (1, 1),
            len: 1,
            modified: (n, 0),
            changed: (n, 0),
        })
    }

    fn listing(files: &[(&str, i64)]) -> Listing {
        files.iter().map(|(p, n)| (PathBuf::from(p), print(*n))).collect()
    }

    fn look(t: &mut Tracker, files: &[(&str, i64)]) -> (String, String) {
        let now = listing(files);
        let ripe = t.look(now.clone());
        for p in &ripe.read {
            if let Some(Some(f)) = now.get(p) {
                t.took(p.clone(), *f);
            }
        }
        let join = |v: Vec<PathBuf>| {
            v.iter()
                .map(|p| p.display().to_string())
                .collect::<Vec<_>>()
                .join(" ")
        };
        (join(ripe.read), join(ripe.gone))
    }

    fn yes(read: &str, gone: &str) -> (String, String) {
        (read.to_owned(), gone.to_owned())
    }

    #[test]
    fn the_first_listing_is_taken_at_once_and_then_left_alone() {
        let mut t = Tracker::default();
        assert_eq!(look(&mut t, &[("a", 1), ("b", 1)]), yes("a b", ""));
        assert_eq!(look(&mut t, &[("a", 1), ("b", 1)]), yes("", ""));
    }

    #[test]
    fn a_first_version_that_was_not_noted_is_read_again() {
        let mut t = Tracker::default();
        assert_eq!(t.look(listing(&[("a", 1)])).read.len(), 1);
        assert_eq!(look(&mut t, &[("a", 1)]), yes("a", ""));
        assert_eq!(look(&mut t, &[("a", 1)]), yes("", ""));
    }

    #[test]
    fn a_change_is_taken_when_everything_has_stood_still() {
        let mut t = Tracker::default();
        look(&mut t, &[("a", 1), ("b", 1)]);
        assert_eq!(look(&mut t, &[("a", 2), ("b", 1)]), yes("", ""), "just changed");
        assert_eq!(
            look(&mut t, &[("a", 2), ("b", 2)]),
            yes("", ""),
            "its neighbour now"
        );
        assert_eq!(look(&mut t, &[("a", 2), ("b", 2)]), yes("a b", ""));
        assert_eq!(look(&mut t, &[("a", 2), ("b", 2)]), yes("", ""));
    }

    #[test]
    fn a_file_that_is_away_for_one_look_is_not_deleted() {
        let mut t = Tracker::default();
        look(&mut t, &[("a", 1), ("b", 1)]);
        assert_eq!(look(&mut t, &[("b", 1)]), yes("", ""));
        assert_eq!(look(&mut t, &[("a", 3), ("b", 1)]), yes("", ""));
        assert_eq!(look(&mut t, &[("a", 3), ("b", 1)]), yes("a", ""));
    }

    #[test]
    fn a_deleted_file_is_gone_at_the_second_look_and_only_once() {
        let mut t = Tracker::default();
        look(&mut t, &[("a", 1), ("b", 1)]);
        look(&mut t, &[("b", 1)]);
        assert_eq!(look(&mut t, &[("b", 1)]), yes("", "a"));
        assert_eq!(look(&mut t, &[("b", 1)]), yes("", ""));
    }

    #[test]
    fn a_restless_neighbour_delays_but_does_not_starve() {
        let mut t = Tracker::default();
        look(&mut t, &[("a", 1), ("b", 0)]);
        let mut taken_at = None;
        for n in 1..=20 {
            if look(&mut t, &[("a", 2), ("b", n)]).0 == "a" {
                taken_at = Some(n);
                break;
            }
        }
        assert_eq!(taken_at, Some(i64::from(PATIENCE)));
    }

    #[test]
    fn a_file_that_cannot_be_looked_at_is_tried_every_time() {
        let mut t = Tracker::default();
        let now: Listing = [(PathBuf::from("a"), None)].into();
        for _ in 0..3 {
            assert_eq!(t.look(now.clone()).read, [PathBuf::from("a")]);
        }
    }
}

//! The tables in force as pins, beside the links: `tables-<root>-<name>`, where `<root>` is the kernel's number of the object's `GWF_ROOT`.
//!
//! A map that is reached only through an array of maps cannot be opened again without `CAP_SYS_ADMIN`. Its pin can: by this agent, which
//! holds no descriptor of hundreds of tables, and by the next one, which so knows what was in force.
//!
//! Tables out of use become `old-…` and are emptied slice by slice ([`Old`]): the kernel frees a trie in one go, and a large one would
//! keep a CPU for seconds.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aya::maps::lpm_trie::LpmTrie;
use aya::maps::{Map, MapData, MapError};
use gwfilter_common::abi::Leaf;

use crate::dataplane::pins::{OLD, TABLES, entries};

/// Where this object's tables are pinned.
#[derive(Debug)]
pub(super) struct Shelf {
    dir: PathBuf,
    owner: u32,
}

/// Why a table is not pinned as it should be.
#[derive(Debug, thiserror::Error)]
pub enum ShelfError {
    /// bpffs refused it.
    #[error("cannot {what} {path}")]
    File {
        /// What was tried.
        what: &'static str,
        /// On which path.
        path: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The kernel refused to pin or to open it.
    #[error("cannot {what} {path}")]
    Map {
        /// What was tried.
        what: &'static str,
        /// On which path.
        path: String,
        /// Why it failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ShelfError {
    let path = path.display().to_string();
    move |source| ShelfError::File { what, path, source }
}

fn map<E: std::error::Error + Send + Sync + 'static>(
    what: &'static str,
    path: &Path,
) -> impl FnOnce(E) -> ShelfError {
    let path = path.display().to_string();
    move |source| ShelfError::Map {
        what,
        path,
        source: Box::new(source),
    }
}

impl Shelf {
    pub(super) const fn new(dir: PathBuf, owner: u32) -> Self {
        Self { dir, owner }
    }

    /// The one that the root table at `path` is of; `None` if it is no such path.
    pub(super) fn at(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let owner = name.strip_prefix(TABLES)?.strip_suffix("-root")?.parse().ok()?;
        Some(Self::new(path.parent()?.to_path_buf(), owner))
    }

    fn prefix(&self) -> String {
        format!("{TABLES}{}-", self.owner)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(self.prefix() + name)
    }

    /// Pins a table in place of the one that has this name, in one step.
    pub(super) fn put(&self, name: &str, table: &MapData) -> Result<(), ShelfError> {
        let (path, aside) = (self.path(name), self.path(&format!("{name}-new")));
        match fs::remove_file(&aside) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(file("remove", &aside)(e)),
        }
        table.pin(&aside).map_err(map("pin a table at", &aside))?;
        fs::rename(&aside, &path).map_err(file("pin a table at", &path))
    }

    /// The table of this name; `None` if it is not pinned any more.
    pub(super) fn get(&self, name: &str) -> Result<Option<MapData>, ShelfError> {
        let path = self.path(name);
        if !path.exists() {
            return Ok(None);
        }
        MapData::from_pin(&path)
            .map(Some)
            .map_err(map("open the table at", &path))
    }

    /// Numbers of the other objects that have a root table here.
    pub(super) fn others(&self) -> Result<Vec<u32>, ShelfError> {
        let list = entries(&self.dir).map_err(map("list", &self.dir))?;
        let number = |name: &String| {
            let number = name.strip_prefix(TABLES)?.strip_suffix("-root")?.parse().ok()?;
            (number != self.owner).then_some(number)
        };
        Ok(list.iter().filter_map(number).collect())
    }

    /// The shelf of one of them.
    pub(super) fn of(&self, owner: u32) -> Self {
        Self::new(self.dir.clone(), owner)
    }

    /// Takes a table out of use: it is freed by and by.
    pub(super) fn retire(&self, name: &str, old: &mut Old) -> Result<(), ShelfError> {
        retire(&self.path(name), old)
    }

    /// Takes out of use what earlier agents left.
    pub(super) fn retire_others(&self, old: &mut Old) -> Result<(), ShelfError> {
        let list = entries(&self.dir).map_err(map("list", &self.dir))?;
        let ours = self.prefix();
        for name in list {
            let path = self.dir.join(&name);
            if name.starts_with(TABLES) && !name.starts_with(&ours) {
                retire(&path, old)?;
            } else if name.starts_with(OLD) && !old.paths.contains(&path) {
                old.paths.push_back(path);
            }
        }
        Ok(())
    }
}

fn retire(path: &Path, old: &mut Old) -> Result<(), ShelfError> {
    let Some(name) = path.file_name().map(|n| n.to_string_lossy().into_owned()) else {
        return Ok(());
    };
    // The name of a table is used again: a number makes it another.
    let to = (0_u32..)
        .map(|n| path.with_file_name(format!("{OLD}{n}-{name}")))
        .find(|to| !to.exists());
    let Some(to) = to else {
        return Ok(());
    };
    match fs::rename(path, &to) {
        Ok(()) => {
            old.paths.push_back(to);
            Ok(())
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(file("set aside", path)(e)),
    }
}

/// Tables out of use.
#[derive(Debug, Default)]
pub(super) struct Old {
    paths: VecDeque<PathBuf>,
}

impl Old {
    /// Whether there is something to free.
    pub(super) fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// Frees at most about `entries` entries. What comes back is why a table is freed in one go instead, or its pin stays.
    pub(super) fn free(&mut self, entries: usize) -> Vec<ShelfError> {
        let (mut left, mut failures) = (entries.max(1), Vec::new());
        while left > 0
            && let Some(path) = self.paths.front()
        {
            match empty(path, &mut left) {
                Ok(false) => continue,
                Ok(true) => {}
                Err(e) => failures.push(map("empty the table at", path)(e)),
            }
            match fs::remove_file(path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => failures.push(file("remove", path)(e)),
                _ => {}
            }
            self.paths.pop_front();
        }
        failures
    }
}

/// Deletes entries of the trie that is pinned at `path`, at most `left` of them; whether nothing is left that could be deleted so.
pub(in crate::dataplane) fn empty(path: &Path, left: &mut usize) -> Result<bool, MapError> {
    if !path.exists() {
        return Ok(true);
    }
    *left = left.saturating_sub(1);
    let mut map = Map::from_map_data(MapData::from_pin(path)?)?;
    if let Ok(mut trie) = LpmTrie::<_, [u8; 4], Leaf>::try_from(&mut map) {
        return delete(&mut trie, left);
    }
    match LpmTrie::<_, [u8; 16], Leaf>::try_from(&mut map) {
        Ok(mut trie) => delete(&mut trie, left),
        // The kernel frees arrays in no time.
        Err(_) => Ok(true),
    }
}

fn delete<const N: usize>(
    trie: &mut LpmTrie<&mut MapData, [u8; N], Leaf>,
    left: &mut usize,
) -> Result<bool, MapError>
where
    [u8; N]: aya::Pod,
{
    loop {
        let Some(key) = trie.keys().next() else {
            return Ok(true);
        };
        if *left == 0 {
            return Ok(false);
        }
        *left -= 1;
        trie.remove(&key?)?;
    }
}

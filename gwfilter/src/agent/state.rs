//! What agents wrote down, for who is none.

use std::path::Path;

use super::past::Shelf;
use super::{aside, disk};
use crate::dataplane::kept::CounterMaps;
use crate::plan::Names;
use crate::status::Left;

/// What an agent left in a directory for `gwfilter status`, if there is something that can be trusted.
#[must_use]
pub fn left(dir: &Path) -> Option<Left> {
    let bytes = disk::read(&dir.join(aside::status_file())).ok().flatten()?;
    serde_json::from_slice(&bytes).ok()
}

/// The names behind the indices of these maps of counters, if an agent left them in a directory.
#[must_use]
pub fn counter_names(dir: &Path, maps: CounterMaps) -> Option<Names> {
    let shelf = Shelf::new(dir.to_owned(), aside::namespace());
    Some(shelf.read_counters(maps)?.names())
}

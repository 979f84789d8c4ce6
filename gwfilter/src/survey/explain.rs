//! `gwfilter explain` without manifests: the tables in force, and what is known beside them.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{SurveyError, Unknown, hidden, names, only, root, status};
use crate::dataplane::control::Control;
use crate::dataplane::pins;
use crate::dataplane::seen::Programs;
use crate::dataplane::tables::pinned::Pinned;
use crate::dataplane::tally::Counters;
use crate::explain::here::Here;
use crate::explain::{Answer, Query};
use crate::plan::Names;
use crate::status::Status;

/// How old what is known may be when an answer is made of it.
const FRESH: Duration = Duration::from_secs(1);
/// Generations that may follow each other while one question is answered.
const TRIES: u32 = 10;

/// What answers are made of.
#[derive(Debug)]
pub struct Survey {
    dirs: Vec<PathBuf>,
    taken: Instant,
    status: Status,
    names: Names,
    pinned: Pinned,
}

impl Survey {
    /// Opens what is pinned in this network namespace. `dirs`: where agents may have written something down.
    ///
    /// # Errors
    /// Nothing is pinned, or it cannot be read.
    pub fn open(dirs: &[PathBuf]) -> Result<Self, SurveyError> {
        let path = root()?.ok_or_else(|| SurveyError::NoTables(hidden().unwrap_or_default()))?;
        let control = only(pins::controls()?)?.ok_or_else(|| gone(&path))?;
        let control = Control::open(&control)?;
        let taken = Instant::now();
        let status = status(dirs, &Programs::default())?;
        let names = match Counters::open()? {
            Some(counters) => names(dirs, &counters).unwrap_or_default(),
            None => Names::default(),
        };
        let pinned = Pinned::open(&path, control)?.ok_or_else(Unknown::other_version)?;
        Ok(Self {
            dirs: dirs.to_vec(),
            taken,
            status,
            names,
            pinned,
        })
    }

    /// What happens to a packet that comes now.
    ///
    /// # Errors
    /// The query describes no packet, or the tables cannot be read.
    pub fn explain(&mut self, query: &Query) -> anyhow::Result<Answer> {
        for _ in 0..TRIES {
            if self.taken.elapsed() > FRESH || !self.pinned.in_force()? {
                *self = Self::open(&self.dirs)?;
            }
            let here = Here {
                status: &self.status,
                names: &self.names,
            };
            let answer = here.answer(query, &self.pinned);
            let trouble = self.pinned.trouble();
            // A table that was put out of use meanwhile may be gone, or be another one.
            if self.pinned.in_force()? {
                trouble?;
                return Ok(answer?);
            }
        }
        Err(SurveyError::from(Unknown(
            "the tables in force change all the time; ask again".to_owned(),
        ))
        .into())
    }
}

fn gone(root: &Path) -> Unknown {
    Unknown(format!(
        "lease and pause: they are not pinned beside {}; somebody removed them",
        root.display()
    ))
}

//! Asks the pins, the kernel and what agents wrote down, and has the answers put together ([`crate::status`], [`crate::counted`]). Works with a
//! running agent, with a dead one and with none, from any process of the network namespace: also the agent's own.
//!
//! Needs no right but those that the pins ask for (they are root's) and `CAP_BPF`. Names of programs take more
//! ([`crate::dataplane::seen::programs`]); an agent knows its own.

mod explain;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::agent;
use crate::counted::Counted;
use crate::dataplane::control::{Control, ControlError, now_ns};
use crate::dataplane::pins::{self, BPFFS, Hook, PinsError, interface_name};
use crate::dataplane::seen::{self, Link, Programs};
use crate::dataplane::tables::TablesError;
use crate::dataplane::tables::seen::{Seen, look};
use crate::dataplane::tally::{Counters, TallyError};
use crate::plan::Names;
use crate::status::rows::{self, Facts};
use crate::status::{self, Attached, Left, NOT_RUNNING, RUNNING, Status, Word};
use crate::telemetry::chain;

pub use explain::Survey;

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
pub enum SurveyError {
    /// The pins.
    #[error(transparent)]
    Pins(#[from] PinsError),
    /// Lease and pause.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// Counters.
    #[error(transparent)]
    Tally(#[from] TallyError),
    /// No counters are pinned.
    #[error(
        "no counters are pinned for this network namespace: gwfilter counts nothing here (`gwfilter status`){}",
        hidden().map(|why| format!("; {why}")).unwrap_or_default()
    )]
    NoCounters,
    /// No tables are pinned.
    #[error(
        "no tables are pinned for this network namespace: gwfilter judges nothing here (`gwfilter status`){0}"
    )]
    NoTables(String),
    /// Something that an answer needs.
    #[error("not known: {0}")]
    Unknown(#[from] Unknown),
}

impl From<TablesError> for SurveyError {
    fn from(e: TablesError) -> Self {
        Self::Tally(e.into())
    }
}

/// Now, in seconds since 1970.
#[must_use]
pub fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_secs()
}

/// What agents were told by `--state-dir`, and where they write without it.
#[must_use]
pub fn places(state_dir: &Path) -> [PathBuf; 2] {
    [state_dir.to_path_buf(), PathBuf::from(agent::RUN_DIR)]
}

/// Everything of `gwfilter status`. `dirs`: where agents may have written something down; the newest word counts. `programs`: names behind
/// numbers, as far as the caller knows them.
///
/// # Errors
/// What is pinned cannot be listed, or lease and pause not be read. What else cannot be learned stands in [`Status::unknown`].
pub fn status(dirs: &[PathBuf], programs: &Programs) -> Result<Status, SurveyError> {
    let (now, now_ns) = (now(), now_ns());
    let attached: Vec<Attached> = seen::links()?
        .iter()
        .map(|link| attached(link, programs))
        .collect();
    let agent = agent()?;
    let hidden = hidden();
    let pins_seen = hidden.is_none();
    let mut unknown: Vec<String> = hidden.into_iter().collect();
    let words = match told(only(pins::controls()?), &mut unknown).flatten() {
        Some(path) => Some(Control::open(&path)?.words().map_err(ControlError::from)?),
        None => None,
    };
    let control = words.map(|words| status::Control::of(words, now_ns));
    let last = newest(dirs);
    let tables = told(tables(!attached.is_empty()), &mut unknown).flatten();
    let counters = told(Counters::open(), &mut unknown).flatten();
    let names = counters.as_ref().and_then(|counters| names(dirs, counters));
    if counters.is_some() && names.is_none() {
        unknown.push("which counters are whose: no agent left their names here (--state-dir?)".to_owned());
    }
    let names = names.unwrap_or_default();
    let tallies = counters
        .as_ref()
        .and_then(|counters| told(counters.read(), &mut unknown));
    let packets = tallies.map(|tallies| {
        let counted = Counted::of(&tallies.listeners, &tallies.rules, &names);
        counted.by_gateway()
    });
    let in_force = tables
        .as_ref()
        .map(|seen| rows::in_force(&seen.tuples, seen.observe, &names));
    let none = BTreeMap::new();
    let facts = Facts {
        agent: &agent,
        // What cannot be seen is not taken as absent.
        attached: status::in_place(&attached) || !pins_seen,
        control: control.as_ref(),
        in_force: in_force.as_ref(),
        tables: tables.as_ref().map_or(&none, |seen| &seen.tables),
        packets: packets.as_ref(),
    };
    Ok(Status {
        gateways: rows::rows(last.as_ref(), &facts),
        memory_bytes: tables
            .as_ref()
            .and_then(|seen| seen.tables.values().copied().sum()),
        agent_seen: status::seen_alive(last.as_ref(), words, now_ns, now),
        agent,
        attached,
        control,
        generation: tables.as_ref().map(|seen| seen.generation),
        generation_since: tables.as_ref().and_then(|seen| seen.since),
        counted_since: counters.as_ref().and_then(Counters::since),
        pins_seen,
        unknown,
        last,
    })
}

/// Everything of `gwfilter counters`, without rates.
///
/// # Errors
/// There are no counters, or they cannot be read.
pub fn counted(dirs: &[PathBuf]) -> Result<Counted, SurveyError> {
    let counters = Counters::open()?.ok_or(SurveyError::NoCounters)?;
    let tallies = counters.read()?;
    let names = names(dirs, &counters).unwrap_or_default();
    Ok(Counted {
        at: now(),
        since: counters.since(),
        agent: agent()?,
        ..Counted::of(&tallies.listeners, &tallies.rules, &names)
    })
}

fn agent() -> Result<Word, PinsError> {
    Ok(if pins::held()? { RUNNING } else { NOT_RUNNING }.into())
}

/// Where lease and pause of the one agent that lies here are; an error says why they are not known.
fn only(mut controls: Vec<PathBuf>) -> Result<Option<PathBuf>, Unknown> {
    match controls.len() {
        0 | 1 => Ok(controls.pop()),
        _ => Err(Unknown(
            "lease and pause: those of several agents lie here; one takes over from another, ask again"
                .to_owned(),
        )),
    }
}

/// The tables in force; an error says why they are not known.
fn tables(attached: bool) -> Result<Option<Seen>, Unknown> {
    let Some(root) = root()? else {
        return match attached {
            false => Ok(None),
            true => Err(Unknown(
                "the tables in force: they are not pinned any more".to_owned(),
            )),
        };
    };
    match look(&root) {
        Ok(Some(seen)) => Ok(Some(seen)),
        Ok(None) => Err(Unknown::other_version()),
        Err(e) => Err(Unknown(format!("the tables in force: {}", chain(&e)))),
    }
}

/// Where the root table in force is pinned.
fn root() -> Result<Option<PathBuf>, Unknown> {
    let mut roots = pins::roots().map_err(|e| Unknown(chain(&e)))?;
    match roots.len() {
        0 | 1 => Ok(roots.pop()),
        _ => Err(Unknown(
            "the tables in force: those of several agents lie here; one takes over from another, ask again"
                .to_owned(),
        )),
    }
}

/// Why something is not known, for people.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unknown(String);

impl Unknown {
    fn other_version() -> Self {
        Self(
            "the tables in force: they are of another version of gwfilter; use the gwfilter of the agent's own version (kubectl exec into its pod)"
                .to_owned(),
        )
    }
}

/// The answer, or why there is none.
fn told<T, E: std::error::Error>(answer: Result<T, E>, unknown: &mut Vec<String>) -> Option<T> {
    answer.map_err(|e| unknown.push(chain(&e))).ok()
}

/// Whether something hides the pins.
fn hidden() -> Option<String> {
    (!pins::mounted()).then(|| {
        format!("there is no bpffs at {BPFFS} to be seen from here; `ip netns exec` hides it, `nsenter --net=…` does not")
    })
}

fn names(dirs: &[PathBuf], counters: &Counters) -> Option<Names> {
    dirs.iter()
        .find_map(|dir| agent::counter_names(dir, counters.maps()))
}

/// The newest of what agents left.
fn newest(dirs: &[PathBuf]) -> Option<Left> {
    let all = dirs.iter().filter_map(|dir| agent::left(dir));
    all.max_by_key(|left| left.written_at)
}

fn attached(link: &Link, programs: &Programs) -> Attached {
    let known = link.program.and_then(|id| programs.get(&id));
    let hook = link.pin.hook;
    let multi_buffer = known
        .filter(|_| hook.is_xdp())
        .map(|p| p.name.starts_with("gwf_xdp_frags"));
    Attached {
        interface: interface_name(link.pin.ifindex).unwrap_or_else(|| "(gone)".to_owned()),
        ifindex: link.pin.ifindex,
        hook: hook.name().into(),
        mode: match hook {
            Hook::Xdp => "native",
            Hook::XdpGeneric => "generic",
            Hook::Tcx | Hook::Clsact => "tc",
        }
        .into(),
        multi_buffer,
        in_place: link.in_place,
        ahead: link.ahead,
        program_id: link.program,
        program: known.map(|p| p.name.clone()),
        since: link.since,
        loaded_since: known.and_then(|p| p.since),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_of_two_agents_then_neither_is_taken_for_the_one_in_force() {
        let (one, two) = (PathBuf::from("a/control"), PathBuf::from("b/control"));
        assert_eq!(only(Vec::new()).unwrap(), None);
        assert_eq!(only(vec![one.clone()]).unwrap(), Some(one.clone()));
        let why = only(vec![one, two]).unwrap_err().to_string();
        assert!(
            why.starts_with("lease and pause: those of several agents"),
            "{why}"
        );
    }
}

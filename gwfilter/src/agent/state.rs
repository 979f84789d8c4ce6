//! What is true of this network namespace, by the pins and by what the last agent wrote down: with a dead agent as with a live one.

use std::path::Path;

use super::{aside, disk};
use crate::dataplane::control::{Control, ControlError, now_ns};
use crate::dataplane::pins::{self, PinsError, interface_name};
use crate::dataplane::tables::{self, TablesError};
use crate::status::{self, Attached, Left, Status};

/// Why it cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The pins.
    #[error(transparent)]
    Pins(#[from] PinsError),
    /// Lease and pause.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// Lease and pause, too.
    #[error(transparent)]
    Tables(#[from] TablesError),
}

/// What `gwfilter status` shows; `state_dir` as the agent was given it.
///
/// # Errors
/// The pins cannot be read.
pub fn status(state_dir: &Path) -> Result<Status, StateError> {
    let attached = pins::attached()?;
    let running = pins::held()?;
    let name = |ifindex| interface_name(ifindex).unwrap_or_else(|| "(gone)".to_owned());
    Ok(Status {
        agent: if running { "running" } else { "not-running" },
        attached: attached
            .into_iter()
            .map(|pin| Attached {
                interface: name(pin.ifindex),
                ifindex: pin.ifindex,
                hook: pin.hook.name(),
            })
            .collect(),
        control: control()?,
        generation: tables::in_force(&pins::roots()?),
        last: last(state_dir),
    })
}

/// Lease and pause. A map that cannot be opened is told, for what is attached is known all the same.
fn control() -> Result<Option<status::Control>, StateError> {
    let Some(path) = pins::controls()?.into_iter().next() else {
        return Ok(None);
    };
    let words = Control::open(&path)?.words()?;
    Ok(Some(status::Control::of(words, now_ns())))
}

/// The newest of what agents left, if there is something that can be trusted.
fn last(state_dir: &Path) -> Option<Left> {
    let file = aside::status_file();
    let read = |dir: &Path| {
        let bytes = disk::read(&dir.join(&file)).ok().flatten()?;
        serde_json::from_slice::<Left>(&bytes).ok()
    };
    [state_dir, Path::new(aside::RUN_DIR)]
        .into_iter()
        .filter_map(read)
        .max_by_key(|left| left.written_at)
}

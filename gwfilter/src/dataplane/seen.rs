//! What is attached in this network namespace, and how, for who is no agent: asked of the pins and of the kernel. Reads only.
//!
//! Of a link the kernel tells its program's number and its device without any right of its own. The name behind the number takes
//! `CAP_SYS_ADMIN`, or an agent that remembers what it has loaded ([`Programs`]).

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::UNIX_EPOCH;

use aya::Ebpf;
use aya::programs::{ProgramInfo, loaded_programs};

use super::pins::{self, Hook, Pin, PinsError};
use super::{clsact, query};

/// A program, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// Its name, as the kernel cut it to 15 characters.
    pub name: String,
    /// Since when it is loaded, in seconds since 1970.
    pub since: Option<u64>,
}

/// Programs by their number.
pub type Programs = BTreeMap<u32, Loaded>;

/// All programs of the machine; none where the right (`CAP_SYS_ADMIN`) is missing.
#[must_use]
pub fn programs() -> Programs {
    let all = loaded_programs().map_while(Result::ok);
    all.map(|info| (info.id(), loaded(&info))).collect()
}

/// Those of a loaded object.
pub(super) fn programs_of(ebpf: &Ebpf) -> Programs {
    let infos = ebpf.programs().filter_map(|(_, program)| program.info().ok());
    infos.map(|info| (info.id(), loaded(&info))).collect()
}

fn loaded(info: &ProgramInfo) -> Loaded {
    let since = info.loaded_at().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    Loaded {
        name: info.name_as_str().unwrap_or_default().to_owned(),
        since: since.map(|since| since.as_secs()),
    }
}

/// A pin of a program, and what the kernel says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Which.
    pub pin: Pin,
    /// Since when it is pinned, in seconds since 1970.
    pub since: Option<u64>,
    /// The number of the program.
    pub program: Option<u32>,
    /// Whether it is on its device; `None`: the kernel does not say.
    pub in_place: Option<bool>,
    /// How many programs of others see a packet at this hook before it does; `None` where the kernel does not say.
    pub ahead: Option<usize>,
}

/// Everything that is pinned for this network namespace, by every version of gwfilter.
///
/// # Errors
/// The pins cannot be listed.
pub fn links() -> Result<Vec<Link>, PinsError> {
    let all = pins::links()?;
    Ok(all.into_iter().map(|(pin, path)| link(pin, &path)).collect())
}

fn link(pin: Pin, path: &Path) -> Link {
    let since = since(path);
    if pin.hook == Hook::Clsact {
        // The pin is of the program; of the filter there is only whether it is there.
        let info = ProgramInfo::from_pin(path).ok();
        return Link {
            pin,
            since,
            program: info.map(|info| info.id()),
            in_place: Some(!clsact::is_gone(pin.ifindex)),
            ahead: None,
        };
    }
    let about = query::pinned(path).and_then(|fd| query::about(fd.as_fd())).ok();
    let number = |name| u32::try_from(query::field(about.as_deref()?, name)?).ok();
    let program = number("prog_id");
    let in_place = number("ifindex").map(|device| device == pin.ifindex);
    let ahead = match (in_place, pin.hook) {
        (Some(true), Hook::Tcx) => query::tcx_ingress(pin.ifindex)
            .ok()
            .and_then(|line| line.iter().position(|id| Some(*id) == program)),
        // There is one place for XDP.
        (Some(true), _) => Some(0),
        _ => None,
    };
    Link {
        pin,
        since,
        program,
        in_place,
        ahead,
    }
}

/// When a pin was made, in seconds since 1970.
pub(super) fn since(path: &Path) -> Option<u64> {
    u64::try_from(fs::metadata(path).ok()?.mtime()).ok()
}

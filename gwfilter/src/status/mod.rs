//! What `gwfilter status` says: what is attached, whether an agent looks after it, and what that agent left behind. Pure.
//!
//! Facts come in as the kernel and the last agent state them ([`crate::survey`] asks); here they are put together ([`rows`]) and told ([`text`]).

pub mod rows;
mod text;

use std::borrow::Cow;
use std::collections::BTreeMap;

use gwfilter_common::abi::FOREVER;
use serde::{Deserialize, Serialize};

use crate::control::{Span, Words};

pub use text::{clock, painted, span};

/// One of a closed set of words. Whoever reads the JSON of another version may meet one that this version does not know.
pub type Word = Cow<'static, str>;

/// [`Status::agent`]: one holds the lock of this network namespace.
pub const RUNNING: &str = "running";
/// [`Status::agent`]: none does.
pub const NOT_RUNNING: &str = "not-running";

/// What the agent leaves on the disk, for when it is asked or dead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// When, in seconds since 1970.
    pub written_at: u64,
    /// Where the objects come from.
    pub from: String,
    /// Number of the generation in force.
    pub generation: u64,
    /// Nothing is dropped.
    pub observe: bool,
    /// The wanted generation is in force, at least one interface is served, everything was read.
    pub ready: bool,
    /// Why it is not ready.
    pub not_ready: Option<String>,
    /// The gateways of this node.
    pub gateways: Vec<GatewayState>,
    /// How often this agent found something otherwise than it had left it, by public name.
    #[serde(default)]
    pub finds: BTreeMap<String, u64>,
    /// How long a lease is, in seconds; `None`: without an end, or left by an agent that did not say.
    #[serde(default)]
    pub lease_length: Option<u64>,
}

/// A gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayState {
    /// `ns/service`.
    pub name: String,
    /// As `check` names it.
    pub client_address: String,
    /// Whether what its policies certainly refuse is dropped on this node.
    pub enforced: bool,
    /// What is not enforced and how to mend it, each `code: text`.
    pub why: Vec<String>,
    /// Entries of its tables; `None`: left by an agent that did not say.
    #[serde(default)]
    pub prefixes: Option<Prefixes>,
}

/// Entries of tables of source addresses, by family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prefixes {
    /// IPv4.
    pub v4: usize,
    /// IPv6.
    pub v6: usize,
}

/// A program at an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// Name of the interface.
    pub interface: String,
    /// Its index.
    pub ifindex: u32,
    /// `xdp`, `xdp-generic`, `tcx` or `clsact`.
    pub hook: Word,
    /// `native` or `generic` XDP, or `tc`.
    pub mode: Word,
    /// Whether it takes frames of several buffers (jumbo frames, coalesced segments); `None`: not XDP, or its name is not known.
    pub multi_buffer: Option<bool>,
    /// Whether packets of the interface reach it; `None`: the kernel does not say.
    pub in_place: Option<bool>,
    /// How many programs of others see a packet at this hook before it does; `None`: the kernel does not say.
    pub ahead: Option<usize>,
    /// The number of the program.
    pub program_id: Option<u32>,
    /// Its name, as the kernel cut it.
    pub program: Option<String>,
    /// Since when a program of gwfilter is attached there, in seconds since 1970.
    pub since: Option<u64>,
    /// Since when this very program is loaded.
    pub loaded_since: Option<u64>,
}

/// Whether packets reach any of these programs, as far as the kernel says: a link that somebody detached by force is pinned still.
#[must_use]
pub fn in_place(attached: &[Attached]) -> bool {
    attached.iter().any(|at| at.in_place != Some(false))
}

/// Lease and pause, as the kernel has them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Control {
    /// `runs`, `expired` or `off`.
    pub lease: Word,
    /// Until it ends, where it runs.
    pub lease_seconds: Option<u64>,
    /// The same of the lease of pods' addresses.
    pub pod_lease: Word,
    /// Until it ends, where it runs.
    pub pod_lease_seconds: Option<u64>,
    /// Whether what is refused passes and is only counted.
    pub paused: bool,
    /// For how much longer, where the pause has an end.
    pub paused_seconds: Option<u64>,
}

impl Control {
    /// What `words` say at `now`, both of the monotonic clock.
    #[must_use]
    pub fn of(words: Words, now: u64) -> Self {
        let of = |until| match Span::of(now, until) {
            Span::Over => ("expired", None),
            Span::For(span) => ("runs", Some(span.as_secs())),
            Span::Forever => ("off", None),
        };
        let ((lease, lease_seconds), (pod_lease, pod_lease_seconds)) = (of(words.lease), of(words.pod_lease));
        Self {
            lease: lease.into(),
            lease_seconds,
            pod_lease: pod_lease.into(),
            pod_lease_seconds,
            paused: Span::of(now, words.paused) != Span::Over,
            paused_seconds: of(words.paused).1,
        }
    }
}

/// Packets since their counters began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packets {
    /// Passed, those of `would_drop` included.
    pub passed: u64,
    /// Dropped.
    pub dropped: u64,
    /// Passed that would have been dropped: observed, or paused. Without a lease nothing is held against a packet.
    pub would_drop: u64,
}

impl Packets {
    /// Both together.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            passed: self.passed.saturating_add(other.passed),
            dropped: self.dropped.saturating_add(other.dropped),
            would_drop: self.would_drop.saturating_add(other.would_drop),
        }
    }

    /// What came since `before`. Less than before: the counter began anew.
    #[must_use]
    pub const fn since(self, before: Self) -> Self {
        const fn of(now: u64, before: u64) -> u64 {
            if now >= before { now - before } else { now }
        }
        Self {
            passed: of(self.passed, before.passed),
            dropped: of(self.dropped, before.dropped),
            would_drop: of(self.would_drop, before.would_drop),
        }
    }

    /// Whether there was none.
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.passed == 0 && self.dropped == 0
    }
}

/// A gateway: what the agent wrote down of it, and what the kernel has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gateway {
    /// `ns/service`.
    pub name: String,
    /// As `check` names it; `None`: the agent wrote down nothing of it.
    pub client_address: Option<String>,
    /// Whether the agent enforced what its policies certainly refuse; where it wrote down nothing, whether the tables do.
    pub enforced: bool,
    /// What the kernel does of that, in the words that `status` uses.
    pub state: String,
    /// What is not enforced and how to mend it, each `code: text`.
    pub why: Vec<String>,
    /// `ip:port/proto`, as the tables in force have them; `None`: they cannot be read.
    pub tuples: Option<Vec<String>>,
    /// Entries of its tables, as the agent wrote them down.
    pub prefixes: Option<Prefixes>,
    /// How many tables in force it has; other gateways may have them too.
    pub tables: Option<usize>,
    /// What these take, in bytes, as the kernel accounts for it.
    pub memory_bytes: Option<u64>,
    /// What was counted; `None`: the counters cannot be read, or not be told apart by gateway.
    pub packets: Option<Packets>,
}

/// The whole answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// `running` or `not-running`.
    pub agent: Word,
    /// When an agent last gave a sign of life (it wrote something down, or renewed the lease), in seconds since 1970.
    pub agent_seen: Option<u64>,
    /// Programs that are pinned, whoever pinned them.
    pub attached: Vec<Attached>,
    /// Lease and pause; `null` where nothing is pinned.
    pub control: Option<Control>,
    /// The generation that the kernel judges by; `null` where nothing is pinned, or it cannot be told.
    pub generation: Option<u64>,
    /// Since when it is in force, in seconds since 1970.
    pub generation_since: Option<u64>,
    /// The gateways of this node, in order of their names.
    pub gateways: Vec<Gateway>,
    /// What all tables in force take, in bytes; each counted once.
    pub memory_bytes: Option<u64>,
    /// Since when counters count, in seconds since 1970; that of a gateway may have begun later.
    pub counted_since: Option<u64>,
    /// Whether pins can be seen from here at all; without, nobody knows what is attached, nor whether an agent runs.
    #[serde(default = "seen")]
    pub pins_seen: bool,
    /// What could not be learned, and why.
    pub unknown: Vec<String>,
    /// What the last agent left; `null` where it left nothing that can be read.
    pub last: Option<Left>,
}

/// What an agent says that does not speak of it: its own pins are seen.
const fn seen() -> bool {
    true
}

/// When an agent last gave a sign of life, in seconds since 1970: what it left was written then, or the lease was renewed. `words` are of the
/// monotonic clock, which says `now_ns` when the other one says `now`.
#[must_use]
pub fn seen_alive(last: Option<&Left>, words: Option<Words>, now_ns: u64, now: u64) -> Option<u64> {
    let wrote = last.map(|last| last.written_at);
    let renewed = || {
        let length = last?.lease_length?.checked_mul(1_000_000_000)?;
        let until = words.map(|words| words.lease).filter(|until| *until != FOREVER)?;
        let ago = now_ns.checked_sub(until.checked_sub(length)?)?;
        now.checked_sub(ago / 1_000_000_000)
    };
    wrote.max(renewed())
}

#[cfg(test)]
mod tests;

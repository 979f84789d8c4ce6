//! What the executor is told to do, and why a plan may be impossible.

use std::sync::Arc;

use gwfilter_common::abi::Leaf;
use gwfilter_common::flat::Line;
use ipnet::{Ipv4Net, Ipv6Net};

use super::root::RootImage;

/// The six arrays-of-maps of tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `GWF_SRC4`.
    Source4,
    /// `GWF_SRC6`.
    Source6,
    /// `GWF_NEVER4`.
    Never4,
    /// `GWF_NEVER6`.
    Never6,
    /// `GWF_FLAT4`.
    Flat4,
    /// `GWF_FLAT6`.
    Flat6,
}

impl Kind {
    /// Whether its keys are IPv6 addresses.
    #[must_use]
    pub const fn is_six(self) -> bool {
        matches!(self, Self::Source6 | Self::Never6 | Self::Flat6)
    }

    /// For messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Source4 => "IPv4 source tables",
            Self::Source6 => "IPv6 source tables",
            Self::Never4 => "IPv4 never-drop tables",
            Self::Never6 => "IPv6 never-drop tables",
            Self::Flat4 => "large IPv4 source tables",
            Self::Flat6 => "large IPv6 source tables",
        }
    }
}

/// Entries of an IPv4 trie, sorted.
pub type Entries4 = Arc<Vec<(Ipv4Net, Leaf)>>;
/// Entries of an IPv6 trie, sorted.
pub type Entries6 = Arc<Vec<(Ipv6Net, Leaf)>>;

/// A table in flat form.
pub type FlatTable = Arc<Vec<Line>>;

/// One step. All steps up to and with [`Op::Swap`] can be repeated or left half done without any packet noticing; after
/// it the new generation is in force, and a [`Op::Clear`] that fails only leaves memory in use until the index is built again.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// Zero the counter of a rule that gets a new owner.
    ZeroRule {
        /// Index into `GWF_RULES`.
        index: u32,
    },
    /// Zero the block of counters of a listener that gets a new owner.
    ZeroListener {
        /// Number of the block in `GWF_COUNT`.
        index: u32,
    },
    /// Make a trie with these entries and put it at `index`, which no packet uses now. The entries may be none.
    Build4 {
        /// [`Kind::Source4`] or [`Kind::Never4`].
        kind: Kind,
        /// Where.
        index: u32,
        /// What.
        entries: Entries4,
    },
    /// As [`Op::Build4`] for IPv6.
    Build6 {
        /// [`Kind::Source6`] or [`Kind::Never6`].
        kind: Kind,
        /// Where.
        index: u32,
        /// What.
        entries: Entries6,
    },
    /// Make an array of these lines and put it at `index`, which no packet uses now.
    BuildFlat {
        /// [`Kind::Flat4`] or [`Kind::Flat6`].
        kind: Kind,
        /// Where.
        index: u32,
        /// What.
        lines: FlatTable,
    },
    /// Make a root table with these elements and put it at `GWF_ROOT[0]`.
    Swap {
        /// The new generation.
        root: Arc<RootImage>,
    },
    /// Free: overwrite with an empty table, which no packet uses now.
    Clear {
        /// Which array.
        kind: Kind,
        /// Where.
        index: u32,
    },
}

/// Why a generation cannot be planned. Nothing was touched: what is in force stays.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// More destinations than a root table takes.
    #[error(
        "{tuples} gateway destinations, but a generation holds at most {max}: remove gateways, ports or addresses from this node"
    )]
    TooManyTuples {
        /// Wanted.
        tuples: usize,
        /// Limit.
        max: usize,
    },
    /// More listeners than blocks of counters.
    #[error(
        "{wanted} new gateway listeners find no block of counters: {in_force} are in force and the limit is {max}: remove gateways or ports from this node"
    )]
    TooManyListeners {
        /// Listeners without a block.
        wanted: usize,
        /// Blocks in force.
        in_force: usize,
        /// Limit.
        max: u32,
    },
    /// More different tables than free slots beside the generation in force.
    #[error("{} new {}, but {in_force} are in force and both generations together may have {max}: fewer listeners with policies of their own are needed", wanted, kind.name())]
    TooManyTables {
        /// Of this kind.
        kind: Kind,
        /// Tables to build.
        wanted: usize,
        /// Tables in force.
        in_force: usize,
        /// Limit for both generations.
        max: u32,
    },
    /// More ways to judge PROXY headers than elements.
    #[error(
        "{wanted} different sets of tables for PROXY headers, but a generation holds {max}: fewer gateway listeners with policies of their own are needed"
    )]
    TooManyProxies {
        /// Wanted.
        wanted: usize,
        /// Limit.
        max: u32,
    },
    /// No seed spreads the destinations well enough.
    #[error(
        "{tuples} gateway destinations do not fit the destination table with any of {seeds} hash seeds: remove a gateway, port or address from this node"
    )]
    NoSeed {
        /// Wanted.
        tuples: usize,
        /// Seeds tried.
        seeds: u32,
    },
}

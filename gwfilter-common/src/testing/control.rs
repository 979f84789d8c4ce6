//! Lease and pause: what a refused packet must come to under each state of the control map. Read by the host tests and by the kernel tests.

use std::vec::Vec;

use super::cases::{Want, denied, denied6, pass};
use super::proxied::{self, Step};
use super::{Image, UNCONTROLLED, root_table, tables, tuple};
use crate::abi::{self, CONTROL_LEN, FOREVER, Tuple};
use crate::decide::Action;
use crate::packet::Packet;
use crate::reason::Reason;
use crate::wire::l4;

/// A destination at an address of a pod: listener 11, the tables of listener 1.
pub const POD: &str = "10.244.0.9:8443";

/// One state of the control map.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// What it is about.
    pub name: &'static str,
    /// The words, from the time at which the packet comes.
    pub words: fn(now: u64) -> [u64; CONTROL_LEN as usize],
    /// What keeps a refusal at an address that is no pod's from being a drop; `None`: nothing.
    pub elsewhere: Option<Reason>,
    /// The same at an address of a pod.
    pub pod: Option<Reason>,
}

const HOUR: u64 = 3_600_000_000_000;

/// Every state.
pub const ROWS: [Row; 14] = {
    const fn row(
        name: &'static str,
        words: fn(u64) -> [u64; CONTROL_LEN as usize],
        elsewhere: Option<Reason>,
        pod: Option<Reason>,
    ) -> Row {
        Row {
            name,
            words,
            elsewhere,
            pod,
        }
    }
    const EXPIRED: Option<Reason> = Some(Reason::LeaseExpired);
    const PAUSED: Option<Reason> = Some(Reason::Paused);
    [
        row("never armed", |_| [0, 0, 0], EXPIRED, EXPIRED),
        row("armed", |now| [now + HOUR, now + HOUR, 0], None, None),
        row("off", |_| UNCONTROLLED, None, None),
        row("expired at this moment", |now| [now, now, 0], EXPIRED, EXPIRED),
        row("expired long ago", |_| [1, 1, 0], EXPIRED, EXPIRED),
        row("the pods' expired", |now| [now + HOUR, now, 0], None, EXPIRED),
        row(
            "the pods' never armed, the other off",
            |_| [FOREVER, 0, 0],
            None,
            EXPIRED,
        ),
        row(
            "only the pods' runs",
            |now| [now, now + HOUR, 0],
            EXPIRED,
            EXPIRED,
        ),
        row("only the pods' is off", |_| [1, FOREVER, 0], EXPIRED, EXPIRED),
        row(
            "paused for an hour",
            |now| [FOREVER, FOREVER, now + HOUR],
            PAUSED,
            PAUSED,
        ),
        row(
            "paused until resumed",
            |_| [FOREVER, FOREVER, FOREVER],
            PAUSED,
            PAUSED,
        ),
        row("a pause that is over", |now| [FOREVER, FOREVER, now], None, None),
        row("paused and expired", |_| [0, 0, FOREVER], EXPIRED, EXPIRED),
        row(
            "paused, and the pods' expired",
            |_| [FOREVER, 1, FOREVER],
            PAUSED,
            EXPIRED,
        ),
    ]
};

impl Row {
    /// What `refused`, a drop, comes to.
    #[must_use]
    pub fn want(&self, refused: Want, pod: bool) -> Want {
        let kept = if pod { self.pod } else { self.elsewhere };
        kept.map_or(refused, |reason| Want {
            action: Action::Pass,
            reason,
            would_drop: reason == Reason::Paused,
            ..refused
        })
    }
}

/// The tables of [`steps`] that are judged by the packet's source; those of [`proxied::image`] are the others.
#[must_use]
pub fn image() -> Image {
    let image = tables::image(0);
    let whole = |destination, listener, flags| Tuple {
        flags,
        source_table: 1,
        never_table: 1,
        ..tuple(tables::addr(destination), l4::TCP, listener)
    };
    let tuples = [
        whole(tables::GATEWAY, 1, 0),
        whole(tables::GATEWAY6, 2, 0),
        whole(tables::OBSERVED, 3, abi::TUPLE_OBSERVE),
        whole(POD, 11, abi::TUPLE_POD),
    ];
    Image {
        root: Some(root_table(0, 7, &tuples)),
        ..image
    }
}

/// Packets under [`image`] with what they come to while the lease runs, and whether they are for a pod's address: refused ones, one that is
/// observed, ones that pass.
#[must_use]
#[expect(clippy::unwrap_used, reason = "the cases fit the builder")]
pub fn steps() -> Vec<(Step, bool)> {
    let refused = |listener| Want {
        action: Action::Drop,
        ..pass(Reason::DeniedByRule, listener, 1)
    };
    let observed = Want {
        would_drop: true,
        ..pass(Reason::Observed, 3, 1)
    };
    let to = |source, destination| Packet::syn(tables::addr(source), tables::addr(destination));
    let rows = [
        ("denied", denied(), refused(1), false),
        ("denied, v6", denied6(), refused(2), false),
        ("denied at a pod", to(tables::DENIED, POD), refused(11), true),
        ("observed", to(tables::DENIED, tables::OBSERVED), observed, false),
        (
            "allowed",
            to(tables::ALLOWED, tables::GATEWAY),
            pass(Reason::Allowed, 1, 2),
            false,
        ),
        (
            "allowed at a pod",
            to(tables::ALLOWED, POD),
            pass(Reason::Allowed, 11, 2),
            true,
        ),
        (
            "never dropped",
            to(tables::NEVER, tables::GATEWAY),
            pass(Reason::NeverDropSource, 1, 0),
            false,
        ),
    ];
    rows.into_iter()
        .map(|(name, packet, want, pod)| {
            let step = Step {
                name: name.into(),
                frame: packet.build().unwrap().bytes().to_vec(),
                want,
            };
            (step, pod)
        })
        .collect()
}

/// The two segments of a refused connection behind the PROXY protocol, under [`proxied::image`].
#[must_use]
pub fn header_steps() -> Vec<Step> {
    let all = proxied::steps();
    ["denied, v2: SYN", "denied, v2: first segment"]
        .into_iter()
        .filter_map(|name| all.iter().find(|step| step.name == name).cloned())
        .collect()
}

/// What a step comes to under a row, pausing and expiring only what is refused.
#[must_use]
pub fn under(row: &Row, want: Want, pod: bool) -> Want {
    match (want.action, want.reason) {
        (Action::Drop, _) => row.want(want, pod),
        // Nobody vouches for what would be counted either.
        (_, Reason::Observed) if row.elsewhere == Some(Reason::LeaseExpired) => Want {
            reason: Reason::LeaseExpired,
            would_drop: false,
            ..want
        },
        _ => want,
    }
}

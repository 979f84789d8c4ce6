//! What becomes of enforcement when the agent ends. Pure.

use crate::placement::Fate;

/// `--on-exit`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnExit {
    /// Ctrl-C takes it off, SIGTERM keeps it: a person who ends the agent means to end what it does, a service
    /// manager or a DaemonSet's upgrade does not. A DaemonSet that is gone, or wants nothing with this node any more, does.
    #[default]
    Auto,
    /// It stays on.
    Keep,
    /// It goes off.
    Detach,
}

/// Why the agent ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// Ctrl-C.
    Interrupt,
    /// SIGTERM.
    Terminate,
    /// The terminal went away: nobody meant anything.
    Hangup,
}

impl Cause {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
            Self::Hangup => "SIGHUP",
        }
    }
}

/// Whether the DaemonSet has to be asked.
pub(super) const fn asks(on_exit: OnExit, cause: Cause) -> bool {
    matches!((on_exit, cause), (OnExit::Auto, Cause::Terminate))
}

/// Whether enforcement stays on, and why. `own` is what becomes of the agent's own DaemonSet; `None`: it is of none.
pub(super) const fn keeps(on_exit: OnExit, cause: Cause, own: Option<Fate>) -> (bool, &'static str) {
    match (on_exit, cause) {
        (OnExit::Keep, _) => (true, "--on-exit=keep"),
        (OnExit::Detach, _) => (false, "--on-exit=detach"),
        (OnExit::Auto, Cause::Interrupt) => (false, "somebody ended the agent by hand"),
        (OnExit::Auto, Cause::Hangup) => (true, "only the terminal went away"),
        (OnExit::Auto, Cause::Terminate) => match own {
            None => (true, "the next agent takes over"),
            Some(Fate::Stays) => (
                true,
                "the DaemonSet still wants a pod on this node, so the next one takes over",
            ),
            Some(Fate::Unknown) => (
                true,
                "what becomes of the DaemonSet cannot be learned; it is taken for an upgrade",
            ),
            Some(Fate::Gone) => (false, "the DaemonSet is deleted"),
            Some(Fate::Deleting) => (false, "the DaemonSet is being deleted"),
            Some(Fate::NamespaceDeleting) => (false, "the DaemonSet's namespace is being deleted"),
            Some(Fate::Elsewhere) => (false, "the DaemonSet no longer selects this node"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Option<Fate>; 7] = [
        None,
        Some(Fate::Stays),
        Some(Fate::Unknown),
        Some(Fate::Gone),
        Some(Fate::Deleting),
        Some(Fate::NamespaceDeleting),
        Some(Fate::Elsewhere),
    ];

    #[test]
    fn only_a_person_or_a_flag_takes_enforcement_off_where_no_daemonset_is_gone() {
        for (on_exit, interrupt, terminate, hangup) in [
            (OnExit::Auto, false, true, true),
            (OnExit::Keep, true, true, true),
            (OnExit::Detach, false, false, false),
        ] {
            for own in [None, Some(Fate::Stays), Some(Fate::Unknown)] {
                assert_eq!(keeps(on_exit, Cause::Interrupt, own).0, interrupt);
                assert_eq!(keeps(on_exit, Cause::Terminate, own).0, terminate);
                assert_eq!(keeps(on_exit, Cause::Hangup, own).0, hangup);
            }
        }
    }

    #[test]
    fn what_the_daemonset_wants_counts_only_where_it_is_asked() {
        for on_exit in [OnExit::Auto, OnExit::Keep, OnExit::Detach] {
            for cause in [Cause::Interrupt, Cause::Terminate, Cause::Hangup] {
                let answers: Vec<bool> = ALL.iter().map(|own| keeps(on_exit, cause, *own).0).collect();
                let wanted = if asks(on_exit, cause) {
                    vec![true, true, true, false, false, false, false]
                } else {
                    vec![answers[0]; ALL.len()]
                };
                assert_eq!(answers, wanted, "{on_exit:?} {cause:?}");
            }
        }
    }
}

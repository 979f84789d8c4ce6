//! What becomes of enforcement when the agent ends. Pure.

/// `--on-exit`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnExit {
    /// Ctrl-C takes it off, SIGTERM keeps it: a person who ends the agent means to end what it does, a service
    /// manager or a DaemonSet's upgrade does not.
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

/// Whether enforcement stays on.
pub(super) const fn keeps(on_exit: OnExit, cause: Cause) -> bool {
    match (on_exit, cause) {
        (OnExit::Keep, _) | (OnExit::Auto, Cause::Terminate | Cause::Hangup) => true,
        (OnExit::Detach, _) | (OnExit::Auto, Cause::Interrupt) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_person_or_a_flag_takes_enforcement_off() {
        for (on_exit, interrupt, terminate, hangup) in [
            (OnExit::Auto, false, true, true),
            (OnExit::Keep, true, true, true),
            (OnExit::Detach, false, false, false),
        ] {
            assert_eq!(keeps(on_exit, Cause::Interrupt), interrupt);
            assert_eq!(keeps(on_exit, Cause::Terminate), terminate);
            assert_eq!(keeps(on_exit, Cause::Hangup), hangup);
        }
    }
}

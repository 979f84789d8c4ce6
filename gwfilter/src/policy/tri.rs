//! Kleene's three-valued logic over [`Tri`].

use crate::gateway::model::Tri;

impl Tri {
    /// Certainly true or certainly false.
    pub(super) const fn of(value: bool) -> Self {
        if value { Self::True } else { Self::False }
    }

    /// False if either is false, true if both are true.
    pub(super) const fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::False, _) | (_, Self::False) => Self::False,
            (Self::True, Self::True) => Self::True,
            _ => Self::Unknown,
        }
    }

    /// True if either is true, false if both are false.
    pub(super) const fn or(self, other: Self) -> Self {
        self.not().and(other.not()).not()
    }

    /// The opposite; unknown stays unknown.
    pub(super) const fn not(self) -> Self {
        match self {
            Self::True => Self::False,
            Self::False => Self::True,
            Self::Unknown => Self::Unknown,
        }
    }

    /// As it is, but never certainly true.
    pub(super) const fn at_most_unknown(self) -> Self {
        self.and(Self::Unknown)
    }
}

//! An immutable, ordered view of the index.

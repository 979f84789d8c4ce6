//! Every row of `docs/reference/policy.md` is checked.

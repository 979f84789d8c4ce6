//! Load, attach, pin, apply, count. Decides nothing: what to attach is [`choice`]'s (pure), what to write the planner's.

pub mod pins;
pub mod rights;

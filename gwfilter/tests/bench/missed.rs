//! Why a goal is missed, where one is: what it comes from, and what was tried. It goes with the figure wherever that is shown.
//!
//! A reason is looked for only where a goal is missed, so what was written once may stay when the figure gets better.

/// What figures' names begin with, and why they miss their goals, as the end of a sentence "missed because …; tried: …". The first that fits
/// counts, so longer beginnings come first.
const REASONS: &[(&str, &str)] = &[];

/// The reason, if one is written down.
pub(crate) fn reason(id: &str) -> Option<&'static str> {
    let fits = REASONS.iter().find(|(begins, _)| id.starts_with(begins));
    fits.map(|(_, reason)| *reason)
}

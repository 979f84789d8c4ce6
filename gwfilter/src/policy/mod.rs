//! From AuthorizationPolicies and a gateway to verdicts.
//!
//! [`spec`] decodes, [`compile()`] turns the rules of a listener into tables of prefixes, [`evaluate()`] answers for one source slowly and
//! obviously. The two share the decoded policies and nothing else; tests hold them equal. What each field means is in `docs/reference/policy.md`.

mod atoms;
mod attach;
pub mod compile;
mod decode;
pub mod evaluate;
mod flatten;
mod interval;
mod proxy;
mod report;
mod rules;
pub mod spec;
mod tri;
pub mod value;

pub use compile::{Compiled, CompiledListener, compile};
pub use evaluate::{evaluate, evaluate_header, evaluate_with};
pub use spec::{Policy, decode};

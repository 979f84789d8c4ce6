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
mod look;
mod memo;
mod proxy;
mod report;
mod rules;
mod shards;
pub mod spec;
mod tri;
pub mod value;
mod voice;

pub use compile::{Compiled, CompiledListener, compile, compile_after};
pub use evaluate::{evaluate, evaluate_header, evaluate_with};
pub use memo::Memo;
pub use spec::{Policy, decode};

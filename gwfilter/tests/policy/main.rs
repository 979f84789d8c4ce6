//! The policy compiler and the reference evaluator.

mod attachment;
#[path = "../support/policies.rs"]
mod policies;
mod properties;
mod proxied;
mod reference;
mod renewed;
mod rules;
#[path = "../support/world.rs"]
mod world;

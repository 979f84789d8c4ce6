//! gwfilter's user side, as a library: the agent and the command line are thin layers over it.
//!
//! The pure part (no I/O, no clock, no randomness) turns objects into [`desired::Desired`]; the rest reads the world
//! and applies what the pure part decided.

pub mod desired;
pub mod diagnostic;
pub mod gateway;
pub mod policy;
pub mod report;

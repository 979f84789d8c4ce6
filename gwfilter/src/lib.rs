//! gwfilter's user side, as a library: the agent and the command line are thin layers over it.
//!
//! The pure part (no I/O, no clock, no randomness) turns objects into [`desired::Desired`]; the rest reads the world
//! and applies what the pure part decided.

pub mod agent;
pub mod cli;
pub mod client;
pub mod code;
pub mod control;
pub mod counted;
pub mod dataplane;
pub mod desired;
pub mod diagnostic;
pub mod doctor;
pub mod explain;
pub mod gateway;
pub mod index;
pub mod kube;
pub mod manifest;
pub mod node;
pub mod notice;
pub mod object;
pub mod params;
pub mod pipeline;
pub mod placement;
pub mod plan;
pub mod plugin;
pub mod policy;
pub mod reference;
pub mod report;
pub mod samples;
pub mod snapshot;
pub mod source;
pub mod status;
pub mod survey;
pub mod table;
pub mod telemetry;
pub mod top;

//! gwfilter's user side, as a library: the agent and the command line are thin layers over it.
//!
//! The pure part (no I/O, no clock, no randomness) turns objects into [`desired::Desired`]; the rest reads the world
//! and applies what the pure part decided. It stands behind the feature `node`, on unless switched off: so the compiler holds the pure part
//! to be pure, and who wants only that (the fuzz targets do) builds no client, no TLS and no terminal. Two pure modules stand behind it
//! too, for what they name: [`top`] draws with ratatui, and [`mod@reference`] asks clap.

#[cfg(feature = "node")]
pub mod agent;
#[cfg(feature = "node")]
pub mod cli;
#[cfg(feature = "node")]
pub mod client;
pub mod code;
pub mod control;
pub mod counted;
#[cfg(feature = "node")]
pub mod dataplane;
pub mod desired;
pub mod diagnostic;
pub mod doctor;
pub mod explain;
pub mod gateway;
pub mod index;
#[cfg(feature = "node")]
pub mod kube;
pub mod manifest;
pub mod node;
pub mod notice;
pub mod object;
pub mod palette;
pub mod params;
pub mod pipeline;
pub mod placement;
pub mod plan;
pub mod plugin;
pub mod policy;
#[cfg(feature = "node")]
pub mod reference;
pub mod report;
pub mod samples;
pub mod snapshot;
#[cfg(feature = "node")]
pub mod source;
pub mod status;
#[cfg(feature = "node")]
pub mod survey;
pub mod table;
#[cfg(feature = "node")]
pub mod telemetry;
#[cfg(feature = "node")]
pub mod top;

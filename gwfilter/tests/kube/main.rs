//! The agent in a cluster: a real API server, the shipped manifests, the shipped ServiceAccount and capabilities, real
//! packets. Needs root and what `cargo xtask setup` builds, and fails without.
//!
//! Each test has a control plane and a site of its own (`xtask::cluster`, `xtask::site`) and may run beside the others.

mod api;
mod changes;
mod events;
mod faults;
mod figures;
mod lab;
mod lease;
mod lifecycle;
mod metrics;
mod outage;
mod plugin;
mod prometheus;
mod rights;
#[path = "../support/rules.rs"]
mod rules;
mod seccomp;
mod walkthrough;

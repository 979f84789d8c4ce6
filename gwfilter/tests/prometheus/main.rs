//! A real Prometheus that scrapes real agents: the shipped rules, each fired by a real fault and cleared when it is mended, and the queries of
//! the shipped dashboard. Needs root and what `cargo xtask setup` installs, and fails without.
//!
//! Each test has a site, an agent and a Prometheus of its own, and may run beside the others.

mod alerts;
mod dashboard;
mod lab;
mod promtool;
#[path = "../support/rules.rs"]
mod rules;

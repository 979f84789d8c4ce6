//! The client in the PROXY header, end to end: real load balancers write it, a real Envoy reads it, gwfilter judges in between.
//!
//! Needs root, and what `cargo xtask setup` installs: haproxy, nginx, Envoy.

mod drain;
mod fast_open;
mod lab;
mod local;
mod modes;
mod raw;
mod segments;
mod senders;
mod switch;
mod told;

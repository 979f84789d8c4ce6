//! `gwfilter doctor` at the bedside: wrong and right client addresses, made for real with Envoy and haproxy in namespaces. Each is diagnosed, the proposed mend
//! is applied as it stands, and the doctor is asked again.
//!
//! Needs root, and what `cargo xtask setup` installs: haproxy, Envoy.

mod topologies;
mod ward;

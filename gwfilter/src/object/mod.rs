//! Our own subset of the Kubernetes and Istio kinds, decoded totally: a faulty object is a diagnostic, never a panic.

pub mod authorization_policy;
pub mod meta;

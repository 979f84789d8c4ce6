//! The agent in a small network: real kernel, real programs, real sockets, in namespaces. Needs root, and fails without.
//!
//! Each test builds its own site (`xtask::site`) and may run beside the others.

mod attach;
mod enforce;
mod exit;
mod explain;
mod lab;
mod lease;
mod meter;
mod monitor;
mod progress;
mod pty;
mod reload;
mod restart;
mod secrecy;
mod status;
mod tables;
mod tamper;
mod top;
mod upgrade;

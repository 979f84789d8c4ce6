//! Faults at system calls of the real agent: after each one, what is enforced is one whole policy, the one before or the one wanted. Needs
//! root and `strace`, and fails without.
//!
//! `strace` makes the N-th call of a kind fail, for every N that a change takes. Real connections say what is enforced meanwhile. A
//! part of all faults is tried, spread evenly over calls and errors; `GWFILTER_FAULTS=all` tries every one.

mod changes;
mod lab;
mod profile;
mod shots;
mod start;
mod strace;

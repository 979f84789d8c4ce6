//! What is a gateway, and what a packet to it meets.

pub mod model;

//! What is shipped in `deploy/`, held against the tools and the server that users give it to.
//!
//! `render` needs kubectl and Helm, `server` a real API server (root), `image` the archive that `cargo xtask image` writes, `dist` what
//! `cargo xtask dist` writes: `cargo xtask test kube` sees to them all.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod dist;
mod image;
mod objects;
mod render;
mod server;

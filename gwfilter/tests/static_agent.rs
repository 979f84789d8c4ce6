//! No test: the agent once more, so that it can be linked without shared libraries from what the tests are built of. The image that the
//! tests run is made of it. Cargo hands arguments for linking to one target alone, and only a target of tests shares what it stands on
//! with the tests: `cargo build` gives the same crates other features, and builds most of them anew.

use std::process::ExitCode;

fn main() -> ExitCode {
    gwfilter::cli::main()
}

//! gwfilter.

use std::process::ExitCode;

fn main() -> ExitCode {
    gwfilter::cli::main()
}

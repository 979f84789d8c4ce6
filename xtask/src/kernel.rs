//! What tests may not expect of the kernel they run on.

/// Names what a kernel lacks, separated by commas; `cargo xtask test vm` sets it for old kernels. Without it everything must work.
pub const LACKS: &str = "GWFILTER_KERNEL_LACKS";

/// Whether the kernel under test is known to lack this: a program by its name, or `tcx`.
#[must_use]
pub fn lacks(what: &str) -> bool {
    std::env::var(LACKS).is_ok_and(|list| list.split(',').any(|word| word == what))
}

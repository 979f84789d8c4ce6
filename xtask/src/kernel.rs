//! What tests may not expect of the kernel they run on.

/// Names what a kernel lacks, separated by commas; `cargo xtask test vm` sets it for old kernels. Without it everything must work.
pub const LACKS: &str = "GWFILTER_KERNEL_LACKS";

/// Whether the kernel under test is known to lack this: a program by its name, or `tcx`. The twin of a program that samples needs what that
/// program needs.
#[must_use]
pub fn lacks(what: &str) -> bool {
    let what = what.strip_suffix("_sampled").unwrap_or(what);
    std::env::var(LACKS).is_ok_and(|list| list.split(',').any(|word| word == what))
}

/// Set in a guest of `cargo xtask test vm`.
pub const GUEST: &str = "GWFILTER_GUEST";

/// Whether this machine is a guest, made for one test and thrown away: its clock may be set.
#[must_use]
pub fn is_guest() -> bool {
    std::env::var_os(GUEST).is_some()
}

/// Set in a guest of `cargo xtask test vm --whole`.
pub const WHOLE: &str = "GWFILTER_GUEST_WHOLE";

/// Whether everything is to be tried. In other guests only what is most: an emulated processor takes seconds for each program.
#[must_use]
pub fn is_whole() -> bool {
    !is_guest() || std::env::var_os(WHOLE).is_some()
}

//! gwfilter.
fn main() {}

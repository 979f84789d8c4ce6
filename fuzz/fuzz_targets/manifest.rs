//! Any bytes as a manifest: no panic, tables and evaluator agree, and unreadable input never widens what is dropped.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../gwfilter/tests/support/manifest_property.rs"]
mod manifest_property;

fuzz_target!(|bytes: &[u8]| manifest_property::holds(bytes));

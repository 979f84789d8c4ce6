//! Any bytes as YAML, and nothing done with what it says: the reader is libyaml, translated into unsafe Rust, so this target is run with the
//! address sanitizer, under which `manifest` tries too little.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| drop(gwfilter::manifest::parse(bytes)));

//! Any bytes behind the signature of a binary PROXY header: no panic, and the parser finds what the slow reader, which is written from
//! Envoy's procedure, finds.
#![no_main]

use gwfilter_common::testing::proxy;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| proxy::binaries(input));

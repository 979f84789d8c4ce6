//! Any bytes as a frame: no panic, and nothing is dropped that the slow reading of the tables would not refuse.
#![no_main]

use std::sync::LazyLock;

use gwfilter_common::testing::{Image, property, tables};
use libfuzzer_sys::fuzz_target;

static IMAGE: LazyLock<Image> = LazyLock::new(|| tables::image(0));

fuzz_target!(|frame: &[u8]| property::packet(&IMAGE, frame));

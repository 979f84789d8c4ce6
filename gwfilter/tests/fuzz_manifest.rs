//! The inputs of the fuzz target `manifest`, its seeds and what once crashed it, as ordinary tests.

use std::path::Path;

#[path = "support/manifest_property.rs"]
mod manifest_property;

#[test]
fn seeds_and_past_crashes_then_the_property_holds() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
    let mut replayed = 0;
    for folder in ["seeds/manifest", "regressions/manifest"] {
        for entry in std::fs::read_dir(fuzz.join(folder)).expect("the folder") {
            let path = entry.expect("an entry").path();
            let bytes = std::fs::read(&path).expect("a file");
            manifest_property::holds(&bytes);
            // Cut short anywhere it is another input.
            for cut in (0..bytes.len()).step_by(97) {
                manifest_property::holds(bytes.get(..cut).unwrap_or_default());
            }
            replayed += 1;
        }
    }
    assert!(replayed >= 3, "only {replayed} inputs");
}

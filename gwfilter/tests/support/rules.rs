//! The shipped rules: as they are, and with the short times that a test can wait for.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "helpers of tests: their panic is the report"
)]

use serde_json::{Value, json};

/// Each range of the rules, and what a test has in its place. A range that is not here is left as it is.
const RANGES: [(&str, &str); 3] = [("[5m]", "[6s]"), ("[15m]", "[6s]"), ("[1d]", "[60s]")];

/// A file of `deploy/monitoring`.
pub(crate) fn shipped(name: &str) -> String {
    let path = xtask::paths::root().join("deploy/monitoring").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The groups of the shipped PrometheusRule: a file of rules as Prometheus reads it, for JSON is YAML.
pub(crate) fn groups() -> Value {
    let object: Value = serde_yaml::from_str(&shipped("rules.yaml")).expect("YAML");
    json!({"groups": object["spec"]["groups"]})
}

/// The same rules for a test's patience: waits of a second in the place of minutes, seconds in the place of long ranges. All else is as shipped.
pub(crate) fn hasty() -> Value {
    let mut groups = groups();
    for group in groups["groups"].as_array_mut().expect("groups") {
        for rule in group["rules"].as_array_mut().expect("rules") {
            if rule.get("for").is_some() {
                rule["for"] = "1s".into();
            }
            let shipped = rule["expr"].as_str().expect("an expression").to_owned();
            let expr = RANGES
                .iter()
                .fold(shipped, |expr, (long, short)| expr.replace(long, short));
            rule["expr"] = expr.into();
        }
    }
    groups
}

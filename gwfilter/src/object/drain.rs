//! `drainDuration` of a proxy configuration: for how long Envoy lets connections live that a change does not let in any more.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::read::Cursor;

/// What is said of it. In order: the greater one spares connections for longer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Drain {
    /// Nothing: Envoy's default, 45 s.
    #[default]
    Unstated,
    /// So long.
    Stated(Duration),
    /// It is stated, or may be, and cannot be read.
    Unknown,
}

impl Drain {
    /// Reads it from a proxy configuration. What cannot be read is no fault of the object: it is told where it bears on a gateway.
    pub(crate) fn read(proxy_config: &Cursor<'_>) -> Self {
        match proxy_config.field("drainDuration").value() {
            Value::Null => Self::Unstated,
            Value::String(text) => duration(text).map_or(Self::Unknown, Self::Stated),
            _ => Self::Unknown,
        }
    }

    /// This, unless `over` states another one.
    #[must_use]
    pub fn overlaid(self, over: Self) -> Self {
        if over == Self::Unstated { self } else { over }
    }
}

/// A duration of protobuf's JSON (`300s`) or of Go (`5m`, `1h30m`), which older versions of Istio take; in whole seconds, or units, rounded up.
fn duration(text: &str) -> Option<Duration> {
    let (mut rest, mut nanos) = (text, 0_u128);
    loop {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at_checked(end)?;
        let next = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, next) = tail.split_at_checked(next)?;
        let unit: u128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let (whole, part) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() || part.contains('.') {
            return None;
        }
        let whole: u128 = whole.parse().ok()?;
        let more = u128::from(part.bytes().any(|b| b != b'0'));
        nanos = nanos.checked_add(whole.checked_add(more)?.checked_mul(unit)?)?;
        if next.is_empty() {
            break;
        }
        rest = next;
    }
    let seconds = u64::try_from(nanos.div_ceil(1_000_000_000)).ok()?;
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::object::read::Faults;

    #[test]
    fn drain_duration_then_its_seconds_or_not_known() {
        let stated = |seconds| Drain::Stated(Duration::from_secs(seconds));
        let cases = [
            (json!({}), Drain::Unstated),
            (json!({"drainDuration": null}), Drain::Unstated),
            (json!({"drainDuration": "300s"}), stated(300)),
            (json!({"drainDuration": "0s"}), stated(0)),
            (json!({"drainDuration": "1.5s"}), stated(2)),
            (json!({"drainDuration": "1.000s"}), stated(1)),
            (json!({"drainDuration": "5m"}), stated(300)),
            (json!({"drainDuration": "1h0m30s"}), stated(3630)),
            (json!({"drainDuration": "1500ms"}), stated(2)),
            (json!({"drainDuration": 300}), Drain::Unknown),
            (json!({"drainDuration": {"seconds": 300}}), Drain::Unknown),
            (json!({"drainDuration": ""}), Drain::Unknown),
            (json!({"drainDuration": "300"}), Drain::Unknown),
            (json!({"drainDuration": "s"}), Drain::Unknown),
            (json!({"drainDuration": "-1s"}), Drain::Unknown),
            (json!({"drainDuration": "1.2.3s"}), Drain::Unknown),
            (json!({"drainDuration": "5 minutes"}), Drain::Unknown),
            (
                json!({"drainDuration": "99999999999999999999999999999999999999999s"}),
                Drain::Unknown,
            ),
        ];
        for (config, wanted) in cases {
            let faults = Faults::default();
            assert_eq!(Drain::read(&Cursor::new(&config, &faults)), wanted, "{config}");
            assert_eq!(faults.into_inner(), Vec::<String>::new(), "{config}");
        }
        assert!(Drain::Unstated < stated(0) && stated(300) < Drain::Unknown);
    }
}

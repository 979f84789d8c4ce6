//! Durations as users write them: `500ms`, `60s`, `5m`, `1h`.

use std::time::Duration;

/// Reads a whole number with a unit, `ms`, `s`, `m` or `h`; `0` needs none.
///
/// # Errors
/// A sentence for the user.
pub fn parse(s: &str) -> Result<Duration, String> {
    let wrong =
        || format!("`{s}` is no duration: write a whole number and a unit, like 500ms, 60s, 5m or 1h");
    let digits = s.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = s.split_at_checked(digits).ok_or_else(wrong)?;
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "" if number == 0 => 0,
        _ => return Err(wrong()),
    };
    number
        .checked_mul(unit_ms)
        .map(Duration::from_millis)
        .ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_with_units_are_read() {
        for (text, ms) in [
            ("500ms", 500),
            ("60s", 60_000),
            ("5m", 300_000),
            ("1h", 3_600_000),
            ("0", 0),
            ("0s", 0),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(ms)), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "60",
            "s",
            "-1s",
            "1.5s",
            "1 s",
            "1d",
            "99999999999999999999s",
            "18446744073709551615h",
            "5µs",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}

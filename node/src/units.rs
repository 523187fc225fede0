//! Durations and sizes as people write them, in one place.

use std::time::Duration;

/// The longest duration that is taken: 100 years in seconds.
const MAX_DURATION_S: u64 = 100 * 366 * 24 * 60 * 60;

/// A text that is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no duration: write a number and a unit, as in 500ms, 30s, 5m, 1h30m or 2d")]
pub struct DurationError(pub String);

/// A text that is no size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no size: write a number and a unit, as in 512 KiB, 100 MB or 1.5 GiB")]
pub struct SizeError(pub String);

/// Reads a duration such as `500ms`, `30s`, `1h30m` or `2d`; a bare number counts seconds. At most 100 years.
///
/// # Errors
/// When the text is nothing of the kind.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let error = || DurationError(text.to_owned());
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(error());
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let (number, after) = split_number(rest).ok_or_else(error)?;
        let unit_end = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let unit_s = match unit {
            "us" => 1e-6,
            "ms" => 1e-3,
            "s" | "sec" => 1.0,
            "m" | "min" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            "w" => 604_800.0,
            "" if number.len() == text.trim().len() => 1.0,
            _ => return Err(error()),
        };
        let number: f64 = number.parse().map_err(|_| error())?;
        let part = Duration::try_from_secs_f64(number * unit_s).map_err(|_| error())?;
        total = total.checked_add(part).ok_or_else(error)?;
        rest = after.trim_start();
    }
    if total.as_secs() > MAX_DURATION_S { Err(error()) } else { Ok(total) }
}

/// Reads a size such as `512 KiB`, `100MB` or `1.5 GiB`; a bare number counts bytes.
///
/// # Errors
/// When the text is nothing of the kind, or more than 2^53 bytes.
pub fn parse_bytes(text: &str) -> Result<u64, SizeError> {
    const MAX_BYTES: f64 = 9_007_199_254_740_992.0;
    let error = || SizeError(text.to_owned());
    let (number, unit) = split_number(text.trim()).ok_or_else(error)?;
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        _ => return Err(error()),
    };
    let bytes = number.parse::<f64>().map_err(|_| error())? * factor as f64;
    if bytes > MAX_BYTES { Err(error()) } else { Ok(bytes as u64) }
}

/// Splits digits with at most one point from what follows.
fn split_number(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, rest) = text.split_at(end);
    (number.starts_with(|c: char| c.is_ascii_digit()) && number.matches('.').count() <= 1).then_some((number, rest))
}

/// Shows a size with three digits or so and a binary unit.
#[must_use]
pub fn format_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
    format!("{value:.digits$} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, ms) in [
            ("500ms", 500),
            ("120s", 120_000),
            ("30", 30_000),
            ("1.5h", 5_400_000),
            ("1h30m", 5_400_000),
            ("1h 30m", 5_400_000),
            ("2d", 172_800_000),
            ("0s", 0),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for bad in ["", "soon", "-1s", "1x", "1h30", "s", "1..5s", "1e9999s", "99999999999999999999d", "nan", "é"] {
            assert_eq!(parse_duration(bad), Err(DurationError(bad.into())));
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in
            [("0", 0), ("100", 100), ("10 GiB", 10 << 30), ("1.5kib", 1536), ("100MB", 100_000_000), ("2G", 2 << 30)]
        {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for bad in ["", "much", "-1", "1 XB", "9999999999 TiB", "GiB"] {
            assert_eq!(parse_bytes(bad), Err(SizeError(bad.into())));
        }
        for (bytes, shown) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (10 << 30, "10.0 GiB"),
            (1_048_570, "1.00 MiB"),
            (300 << 20, "300 MiB"),
        ] {
            assert_eq!(format_bytes(bytes), shown);
        }
    }
}

//! Sizes and spans of time as people write them, in one place.

use std::time::Duration;

use jiff::SignedDuration;

/// A text that is no size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no size: write a number and a unit, as in 512 KiB, 100 MB or 1.5 GiB")]
pub struct SizeError(pub String);

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
        "pb" => 1_000_000_000_000_000,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "p" | "pib" => 1 << 50,
        _ => return Err(error()),
    };
    let bytes = number.parse::<f64>().map_err(|_| error())? * factor as f64;
    if bytes > MAX_BYTES { Err(error()) } else { Ok(bytes as u64) }
}

/// A text that is no span of time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("write a number and its unit, such as 500ms, 10s, 2m or 1h30m")]
pub struct DurationError;

/// Reads a span of time with its unit, such as `500ms` or `1h30m`, not negative.
///
/// # Errors
/// When the text is nothing of the kind.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let parsed = text.parse::<SignedDuration>().ok().and_then(|duration| Duration::try_from(duration).ok());
    parsed.ok_or(DurationError)
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
            (3 << 50, "3.00 PiB"),
        ] {
            assert_eq!(format_bytes(bytes), shown);
            assert!(parse_bytes(shown).unwrap().abs_diff(bytes) <= bytes / 100, "{shown}");
        }
    }
}

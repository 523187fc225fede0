//! Spans of time as a declaration writes them: whole numbers with their units, the larger first, as in `1h30m`.

/// The longest span: a hundred years of 365 days, in milliseconds.
pub const MAX_SPAN_MS: u64 = 100 * 365 * DAY_MS;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;
/// Units and their milliseconds, falling.
const UNITS: [(&str, u64); 5] = [("d", DAY_MS), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// Reads a span such as `500ms`, `30s`, `1h30m` or `7d`: from a millisecond up to [`MAX_SPAN_MS`], each unit once and
/// the larger before the smaller. A day has 24 hours. `None` for anything else.
#[must_use]
pub fn parse_span_ms(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut total_ms = 0u64;
    let mut units = UNITS.iter();
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let (_, unit_ms) = units.by_ref().find(|(unit, _)| *unit == &rest[..letters])?;
        total_ms = total_ms.checked_add(number.checked_mul(*unit_ms)?)?;
        rest = &rest[letters..];
    }
    (1..=MAX_SPAN_MS).contains(&total_ms).then_some(total_ms)
}

/// Writes a span so that [`parse_span_ms`] reads it again.
#[must_use]
pub fn format_span(mut ms: u64) -> String {
    let mut text = String::new();
    for (unit, unit_ms) in UNITS {
        if ms >= unit_ms {
            text.push_str(&format!("{}{unit}", ms / unit_ms));
            ms %= unit_ms;
        }
    }
    if text.is_empty() { "0ms".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_span_is_read_as_it_is_written(ms in 1..=MAX_SPAN_MS) {
            prop_assert_eq!(parse_span_ms(&format_span(ms)), Some(ms));
        }

        #[test]
        fn no_text_panics(text in "[0-9dhms. -]{0,24}") {
            let _ = parse_span_ms(&text);
        }
    }

    #[test]
    fn spans_are_read_as_documented() {
        let good = [("500ms", 500), ("30s", 30_000), ("1h30m", 5_400_000), ("7d", 7 * DAY_MS), ("0h5m", 300_000)];
        for (text, ms) in good {
            assert_eq!(parse_span_ms(text), Some(ms), "{text}");
        }
        for bad in ["", "5", "s", "0s", "1m1h", "1h1h", "1.5s", "-1s", "1 s", "1w", "99999999d", "36501d", "1sm"] {
            assert_eq!(parse_span_ms(bad), None, "{bad}");
        }
    }
}

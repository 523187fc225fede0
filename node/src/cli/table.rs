//! Tables for people, and the numbers in them.

use comfy_table::{Attribute, Cell, CellAlignment, ContentArrangement, Table, presets};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ZonedDateTime};

use super::Output;

/// A table whose columns are named, the right-aligned ones with a leading `>`.
pub(crate) fn table(output: &Output, columns: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    // Rows stay lines, also in a narrow terminal: ids and addresses that are cut in two cannot be copied.
    table.set_content_arrangement(ContentArrangement::Disabled);
    if output.stdout_colors() {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    let name = |column: &str| Cell::new(column.trim_start_matches('>')).add_attribute(Attribute::Bold);
    table.set_header(columns.iter().map(|column| name(column)));
    for (index, column) in columns.iter().enumerate() {
        let last = index + 1 == columns.len();
        if let Some(cells) = table.column_mut(index) {
            cells.set_padding((0, if last { 0 } else { 2 }));
            if column.starts_with('>') {
                cells.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    table
}

/// A table's text without the blanks at the ends of its lines.
pub(crate) fn text(table: &Table) -> String {
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// A whole number with a mark every three digits.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes in the largest fitting unit.
pub(crate) fn bytes(number: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if number < 1024 {
        return format!("{number} B");
    }
    let mut value = number as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// The time of day here, with the date unless it is today's.
pub(crate) fn time(ms: u64) -> String {
    time_at(ms, &ZonedDateTime::now())
}

fn time_at(ms: u64, now: &ZonedDateTime) -> String {
    let zone: TimeZone = now.time_zone().clone();
    let Some(timestamp) = i64::try_from(ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok()) else {
        return format!("{ms} ms");
    };
    let then = timestamp.to_zoned_datetime(zone);
    let format = if then.date() == now.date() { "%H:%M:%S%.3f" } else { "%Y-%m-%d %H:%M:%S%.3f" };
    then.strftime(format).to_string()
}

/// Seconds as people say them: the two greatest units.
pub(crate) fn seconds(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, _, _) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

/// One thing, or several: `1 peer`, `2 peers`.
pub(crate) fn many(number: u64, what: &str) -> String {
    plural(number, what, &format!("{what}s"))
}

/// One thing, or several whose name has another form.
pub(crate) fn plural(number: u64, one: &str, several: &str) -> String {
    format!("{} {}", count(number), if number == 1 { one } else { several })
}

/// A text of others, safe to show: control characters are escaped, so that no event can command the terminal.
pub(crate) fn safe(text: &str) -> String {
    if !text.chars().any(char::is_control) {
        return text.to_owned();
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if c.is_control() { safe.extend(c.escape_default()) } else { safe.push(c) }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!([0, 999, 1000, 65_533, 1_234_567].map(count), ["0", "999", "1,000", "65,533", "1,234,567"]);
        assert_eq!(
            [0, 1023, 1024, 1_048_575, 1_048_576, u64::MAX].map(bytes),
            ["0 B", "1023 B", "1.0 KiB", "1.0 MiB", "1.0 MiB", "16384.0 PiB"]
        );
        assert_eq!([5, 65, 3700, 90_000].map(seconds), ["5s", "1m 5s", "1h 1m", "1d 1h"]);
        assert_eq!([many(1, "peer"), many(2000, "peer")], ["1 peer", "2,000 peers"]);
    }

    #[test]
    fn times_have_a_date_when_it_matters() {
        let now: ZonedDateTime = "2026-03-02T12:00:00+00:00[UTC]".parse().unwrap();
        let now_ms = now.timestamp().as_millisecond() as u64;
        assert_eq!(time_at(now_ms + 5, &now), "12:00:00.005");
        assert_eq!(time_at(now_ms - 86_400_000, &now), "2026-03-01 12:00:00.000");
        assert_eq!(time_at(u64::MAX, &now), format!("{} ms", u64::MAX));
    }

    #[test]
    fn an_event_cannot_command_the_terminal() {
        assert_eq!(safe("größe"), "größe");
        assert_eq!(safe("a\x1b[2Jb\n"), r"a\u{1b}[2Jb\n");
    }
}

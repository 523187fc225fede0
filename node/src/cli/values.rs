//! Reads what people write in arguments.

use std::time::Duration;

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{Span, SpanRelativeTo, Timestamp, ZonedDateTime};
use libp2p::{Multiaddr, PeerId};
use roundelay_protocol::topic::{Pattern, Topic};

use crate::api::types::From;

/// In which form a picture is drawn.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum PictureFormat {
    /// Words and numbers
    #[default]
    Text,
    /// A diagram for Mermaid
    Mermaid,
    /// A graph for Graphviz
    Dot,
}

impl PictureFormat {
    /// As it is written on the command line and in queries.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Mermaid => "mermaid",
            Self::Dot => "dot",
        }
    }
}

/// A span of time with its unit, not negative.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    crate::units::parse_duration(text).map_err(|error| error.to_string())
}

/// A span of time that may be days, of 24 hours, or weeks.
pub(crate) fn age(text: &str) -> Result<Duration, String> {
    let span = text.parse::<Span>().ok().and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()).ok());
    let age = span.and_then(|span| Duration::try_from(span).ok()).filter(|age| !age.is_zero());
    age.ok_or_else(|| "write a number and its unit, such as 7d, 12h or 30m".into())
}

/// A size in bytes.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    crate::units::parse_bytes(text).map_err(|error| error.to_string())
}

/// The id of a node that may publish, or `none`.
pub(crate) fn writer(text: &str) -> Result<Option<PeerId>, String> {
    if text == "none" {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|error| format!("{error}; write ids as `roundelay status` and `peers` show them"))
}

/// A topic that services may publish to.
pub(crate) fn topic(text: &str) -> Result<Topic, String> {
    let topic = Topic::new(text).map_err(|error| match Pattern::new(text) {
        Ok(_) => format!("'{text}' is a pattern: events are published to one topic, such as 'orders.placed'"),
        Err(_) => error.to_string(),
    })?;
    if topic.is_system() {
        return Err(format!("'{topic}' belongs to the system: publish to a topic that does not start with '_'"));
    }
    Ok(topic)
}

/// A topic or a pattern.
pub(crate) fn pattern(text: &str) -> Result<Pattern, String> {
    Pattern::new(text).map_err(|error| error.to_string())
}

/// An address to listen on, to join by, or to advertise.
pub(crate) fn multiaddr(text: &str) -> Result<Multiaddr, String> {
    let advice = "write a multiaddr, such as /ip4/192.0.2.7/tcp/4001 or /dns4/node.example.org/tcp/4001/p2p/PEER";
    text.parse().map_err(|error| format!("{error}; {advice}"))
}

/// `name=value` of an extension attribute.
pub(crate) fn attribute(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()) {
        return Err(format!("'{name}' cannot name an attribute: use lower-case letters and digits only"));
    }
    Ok((name.into(), value.into()))
}

/// A number of events a second.
pub(crate) fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate: &f64| rate.is_finite() && *rate > 0.0);
    rate.ok_or_else(|| "write a number of events a second, greater than 0".into())
}

/// `TOPIC=N`.
pub(crate) fn topic_count(text: &str) -> Result<(Topic, u64), String> {
    let advice = "write TOPIC=NUMBER, such as orders.placed=100";
    let (topic, count) = text.rsplit_once('=').ok_or(advice)?;
    let count = count.parse().map_err(|_| advice)?;
    Ok((Topic::new(topic).map_err(|error| error.to_string())?, count))
}

/// Where a subscription begins: `start`, `end`, `-N`, `@TIME` or `@-SPAN`.
pub(crate) fn from(text: &str) -> Result<From, String> {
    from_at(text, &ZonedDateTime::now())
}

pub(crate) fn from_at(text: &str, now: &ZonedDateTime) -> Result<From, String> {
    let advice = "write start, end, -10 (the last ten), @2026-01-31T09:00:00Z or @-1h";
    match text.strip_prefix('@') {
        Some(time) => time_at(time, now).map(From::TimeMs).ok_or_else(|| advice.into()),
        None => match text.parse() {
            Ok(from @ (From::Start | From::End | From::Last(_) | From::Arrival(_) | From::Cursor(_))) => Ok(from),
            _ => Err(advice.into()),
        },
    }
}

/// Milliseconds since 1970 of a time, or of a span before now. A time without a zone is one of the clock on the wall.
fn time_at(text: &str, now: &ZonedDateTime) -> Option<u64> {
    let timestamp = if text.starts_with('-') {
        now.checked_add(text.parse::<Span>().ok()?).ok()?.timestamp()
    } else if let Ok(timestamp) = text.parse::<Timestamp>() {
        timestamp
    } else {
        let on_the_wall = text.parse::<DateTime>().ok().or_else(|| Some(text.parse::<Date>().ok()?.at(0, 0, 0, 0)));
        on_the_wall?.to_zoned_datetime(zone(now)).ok()?.timestamp()
    };
    u64::try_from(timestamp.as_millisecond()).ok()
}

fn zone(now: &ZonedDateTime) -> TimeZone {
    now.time_zone().clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2s"), Ok(Duration::from_secs(2)));
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("1h 30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        for bad in ["", "5", "soon", "-2s", "2 parsecs"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn places_to_start_from() {
        let now: ZonedDateTime = "2026-03-02T12:00:00+00:00[UTC]".parse().unwrap();
        let now_ms = now.timestamp().as_millisecond() as u64;
        let cases = [
            ("start", From::Start),
            ("end", From::End),
            ("-10", From::Last(10)),
            ("@-1h", From::TimeMs(now_ms - 3_600_000)),
            ("@-1h30m", From::TimeMs(now_ms - 5_400_000)),
            ("@-2d", From::TimeMs(now_ms - 2 * 86_400_000)),
            ("@2026-03-02T11:00:00Z", From::TimeMs(now_ms - 3_600_000)),
            ("@2026-03-02T13:00:00+02:00", From::TimeMs(now_ms - 3_600_000)),
            ("@2026-03-02T11:00", From::TimeMs(now_ms - 3_600_000)),
            ("@2026-03-02", From::TimeMs(now_ms - 12 * 3_600_000)),
        ];
        for (text, place) in cases {
            assert_eq!(from_at(text, &now), Ok(place), "{text}");
        }
        for bad in
            ["", "somewhere", "10", "-", "--10", "@", "@-", "@soon", "@1h", "@-1", "@1960-01-01T00:00:00Z", "-1h"]
        {
            assert!(from_at(bad, &now).is_err(), "{bad}");
        }
    }

    #[test]
    fn topics_to_publish_to() {
        assert!(topic("orders.placed").is_ok());
        assert!(topic("orders.*").unwrap_err().contains("pattern"));
        assert!(topic("_mesh").unwrap_err().contains("system"));
        assert!(topic("orders..placed").is_err());
    }

    #[test]
    fn pairs() {
        assert_eq!(topic_count("a.b=3").unwrap().1, 3);
        assert!(topic_count("a.b").is_err() && topic_count("a.b=x").is_err() && topic_count("a..b=1").is_err());
        assert_eq!(attribute("k=v=w"), Ok(("k".into(), "v=w".into())));
        assert!(attribute("k").is_err() && attribute("K=v").is_err() && attribute("=v").is_err());
        assert!(rate("0").is_err() && rate("-1").is_err() && rate("inf").is_err() && rate("0.5") == Ok(0.5));
    }
}

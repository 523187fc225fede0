//! What CloudEvents 1.0 demands of attributes, whatever form they come in.

use fluent_uri::{Uri, UriRef};
use jiff::Timestamp;
use roundelay_protocol::event::{Event, Value};

use super::CloudEventError;

/// What an event gets that does not say it.
#[derive(Debug, Clone, Copy)]
pub struct Defaults<'a> {
    /// Its source, a URI reference.
    pub source: &'a str,
    /// Its type.
    pub kind: &'a str,
}

/// How strictly an event is read.
#[derive(Debug, Clone, Copy)]
pub enum Reading<'a> {
    /// As CloudEvents demands: all that is required is there, and all that is there keeps to the rules.
    Strict,
    /// The same, but an id, source, type or version that is missing gets a default: the id is a new UUID.
    Filling(Defaults<'a>),
    /// As some node gave it out. Its attributes were judged when it was published, if its author judged them.
    Again,
}

impl Reading<'_> {
    pub(super) fn is_strict(&self) -> bool {
        !matches!(self, Self::Again)
    }
}

/// Checks an event against the rules that JSON and headers have in common.
pub(super) fn check(event: &Event) -> Result<(), CloudEventError> {
    let optional = [
        ("subject", event.subject.as_deref()),
        ("partitionkey", event.key.as_deref()),
        ("datacontenttype", event.content_type.as_deref()),
        ("correlationid", event.correlation.as_deref()),
    ];
    let required = [("id", &event.id), ("source", &event.source), ("type", &event.kind)];
    let named = required.map(|(name, text)| (name, Some(text.as_str()))).into_iter().chain(optional);
    for (name, text) in named.filter_map(|(name, text)| Some((name, text?))) {
        demand(!text.is_empty(), name, text, "a text that is not empty, or left out")?;
        check_characters(name, text)?;
    }
    event.causes.iter().try_for_each(|cause| check_characters("causationid", cause))?;
    demand(
        is_uri_reference(&event.source),
        "source",
        &event.source,
        "a URI reference, its other characters %-encoded",
    )?;
    if let Some(media_type) = &event.content_type {
        demand(is_media_type(media_type), "datacontenttype", media_type, "a media type like application/json")?;
    }
    for (name, value) in &event.extensions {
        match value {
            Value::Int(number) => {
                let expected = "a text, a truth value or a whole number of 32 bits: give larger ones as texts";
                demand(i32::try_from(*number).is_ok(), name, &number.to_string(), expected)?;
            }
            Value::Text(text) => {
                check_characters(name, text)?;
                match name.as_str() {
                    "time" => demand(is_time(text), name, text, "a time like 2026-01-31T09:00:00Z")?,
                    "dataschema" => demand(Uri::parse(text.as_str()).is_ok(), name, text, "a URI with its scheme")?,
                    _ => {}
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn demand(holds: bool, name: &str, found: &str, expected: &'static str) -> Result<(), CloudEventError> {
    if holds { Ok(()) } else { Err(CloudEventError::bad_value(name, &format!("'{found}'"), expected)) }
}

fn check_characters(name: &str, text: &str) -> Result<(), CloudEventError> {
    let shown = || text.escape_debug().to_string();
    match text.chars().all(is_allowed) {
        true => Ok(()),
        false => {
            Err(CloudEventError::bad_value(name, &shown(), "free of control characters and Unicode's noncharacters"))
        }
    }
}

/// Neither a control character nor one of the code points that Unicode keeps from ever being a character.
fn is_allowed(character: char) -> bool {
    let code = u32::from(character);
    !character.is_control() && !(0xFDD0..=0xFDEF).contains(&code) && code & 0xFFFE != 0xFFFE
}

fn is_uri_reference(text: &str) -> bool {
    UriRef::parse(text).is_ok()
}

/// `type/subtype` of RFC 2046, with or without parameters, which are not looked at.
fn is_media_type(text: &str) -> bool {
    let is_token = |part: &str| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        !part.is_empty() && part.bytes().all(allowed)
    };
    let essence = text.split(';').next().unwrap_or_default().trim();
    essence.split_once('/').is_some_and(|(kind, subtype)| is_token(kind) && is_token(subtype))
}

/// A time of RFC 3339, which is stricter than what can be understood.
pub(super) fn is_time(text: &str) -> bool {
    let bytes = text.as_bytes();
    let is_digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    let matches = |from: usize, shape: &[u8]| {
        shape.iter().enumerate().all(|(index, wanted)| match wanted {
            b'0' => is_digit(from + index),
            other => bytes.get(from + index).is_some_and(|byte| byte.eq_ignore_ascii_case(other)),
        })
    };
    if !matches(0, b"0000-00-00T00:00:00") {
        return false;
    }
    let mut at = 19;
    if bytes.get(at) == Some(&b'.') {
        let digits = bytes[at + 1..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        at += 1 + digits;
        if digits == 0 {
            return false;
        }
    }
    let zone = &bytes[at..];
    let offset = zone.len() == 6 && matches!(zone[0], b'+' | b'-') && matches(at + 1, b"00:00");
    (offset || zone.eq_ignore_ascii_case(b"z")) && is_on_the_calendar(text, at)
}

fn is_on_the_calendar(text: &str, fraction_end: usize) -> bool {
    // More than nanoseconds are allowed, and understood by few.
    let seconds = &text[..19];
    let zone = if text[fraction_end..].ends_with("-00:00") { "Z" } else { &text[fraction_end..] };
    format!("{seconds}{zone}").parse::<Timestamp>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_rfc_3339() {
        for good in [
            "2026-01-31T09:00:00Z",
            "2026-01-31t09:00:00.123456789012z",
            "1996-12-19T16:39:57-08:00",
            "2026-01-31T09:00:00-00:00",
            "1990-12-31T23:59:60Z",
            "2024-02-29T00:00:00+23:59",
        ] {
            assert!(is_time(good), "{good}");
        }
        for bad in [
            "",
            "yesterday",
            "2026-01-31",
            "2026-01-31 09:00:00Z",
            "2026-01-31T09:00:00",
            "2026-01-31T09:00Z",
            "2026-01-31T09:00:00.Z",
            "2026-02-30T09:00:00Z",
            "2026-01-31T25:00:00Z",
            "2026-01-31T09:00:00+0100",
            "2026-01-31T09:00:00Z[UTC]",
            "2026-01-31T09:00:00ZZ",
            "+002026-01-31T09:00:00Z",
            "2026-01-31T09:00:00\u{ff21}",
        ] {
            assert!(!is_time(bad), "{bad}");
        }
    }

    #[test]
    fn sources_are_uri_references() {
        for good in
            ["/shop", "shop", "https://example.org/a?b#c", "urn:uuid:1", "mailto:a@b.c", "1-555-123-4567", "%20"]
        {
            assert!(is_uri_reference(good), "{good}");
        }
        for bad in ["/my shop", "/größe", "%2", "<a>", "a\\b", "http://[::1"] {
            assert!(!is_uri_reference(bad), "{bad}");
        }
    }

    #[test]
    fn media_types_have_two_parts() {
        for good in ["application/json", "text/plain; charset=utf-8", "application/vnd.a+json;b=\"c\""] {
            assert!(is_media_type(good), "{good}");
        }
        for bad in ["json", "/json", "text/", "a b/c", "a/b/c"] {
            assert!(!is_media_type(bad), "{bad}");
        }
    }

    #[test]
    fn characters_that_texts_may_not_have_are_found() {
        for bad in ['\0', '\n', '\u{7f}', '\u{85}', '\u{fdd0}', '\u{ffff}', '\u{1fffe}'] {
            assert!(!is_allowed(bad), "{bad:?}");
        }
        assert!("ä €😀\u{200d}".chars().all(is_allowed));
    }
}

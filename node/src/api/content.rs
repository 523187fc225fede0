//! The bodies that publish events: CloudEvents in each mode of its HTTP binding, and anything else as data.

use std::fmt;

use axum::http::{HeaderMap, HeaderValue, header};
use bytes::Bytes;
use roundelay_protocol::event::{EncodedEvent, Event};
use serde::de::{Deserialize, Deserializer, IgnoredAny, SeqAccess, Visitor};

use super::problem::ApiError;
use super::types::{BATCH_CONTENT_TYPE, Code, EVENT_CONTENT_TYPE, MAX_PUBLISH_EVENTS};
use crate::cloudevents::{
    CloudEventError, Defaults, HEADER_PREFIX, Object, Reading, is_json_type, is_nested_too_deep, read_binary,
    read_event,
};
use crate::traces::{TRACEPARENT, TRACESTATE, TraceContext};

/// The type of events that name none.
pub(super) const DEFAULT_KIND: &str = "event";
/// What clients say that were given data and not its type, such as `curl --data`.
const FORM_CONTENT_TYPE: &str = "application/x-www-form-urlencoded";

/// How a request holds its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// One event in JSON.
    Structured,
    /// Any number of events in a JSON array.
    Batched,
    /// Attributes in headers, data in the body.
    Binary,
    /// Data alone.
    Plain,
}

/// The events of a request, with their ids.
pub(super) type Parsed = (Vec<String>, Vec<EncodedEvent>);

/// Reads the events of a request. With `fill`, CloudEvents may lack what [`Defaults`] has.
pub(super) fn read(headers: &HeaderMap, body: &Bytes, defaults: Defaults<'_>, fill: bool) -> Result<Parsed, ApiError> {
    let reading = if fill { Reading::Filling(defaults) } else { Reading::Strict };
    let trace = trace_of(headers);
    let content_type = content_type(headers)?;
    let mut event = match mode(headers, content_type)? {
        Mode::Batched => return read_batch(body, reading, trace.as_ref()),
        Mode::Structured => {
            let object = serde_json::from_slice(body).map_err(|error| CloudEventError::Json(error.to_string()))?;
            read_event(&object, reading)?.event
        }
        Mode::Binary => {
            let headers = headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
            read_binary(headers, content_type, body.clone(), reading)?.event
        }
        Mode::Plain => wrap(content_type, body, defaults)?,
    };
    if let Some(trace) = &trace {
        trace.mark(&mut event);
    }
    Ok((vec![event.id.clone()], vec![event.encode()?]))
}

/// The trace that a request belongs to.
pub(super) fn trace_of(headers: &HeaderMap) -> Option<TraceContext> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    TraceContext::from_headers(text(TRACEPARENT), text(TRACESTATE))
}

fn content_type(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let unreadable = |_| ApiError::new(Code::UnsupportedMediaType, "the Content-Type is no text");
    let text = headers.get(header::CONTENT_TYPE).map(HeaderValue::to_str).transpose().map_err(unreadable)?;
    Ok(text.map(str::trim).filter(|text| !text.is_empty()))
}

fn mode(headers: &HeaderMap, content_type: Option<&str>) -> Result<Mode, ApiError> {
    let (media_type, parameters) =
        content_type.unwrap_or_default().split_once(';').unwrap_or((content_type.unwrap_or_default(), ""));
    let media_type = media_type.trim().to_ascii_lowercase();
    let mode = match media_type.as_str() {
        EVENT_CONTENT_TYPE => Mode::Structured,
        BATCH_CONTENT_TYPE => Mode::Batched,
        _ if media_type.starts_with("application/cloudevents") => {
            let detail = format!("CloudEvents are taken in JSON, not as '{media_type}'");
            let hint = "use application/cloudevents+json, application/cloudevents-batch+json, or ce- headers";
            return Err(ApiError::new(Code::UnsupportedMediaType, detail).with_hint(hint));
        }
        _ if headers.keys().any(|name| name.as_str().starts_with(HEADER_PREFIX)) => return Ok(Mode::Binary),
        _ => return Ok(Mode::Plain),
    };
    let charset = parameters.split(';').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("charset").then(|| value.trim().trim_matches('"'))
    });
    match charset {
        Some(charset) if !charset.eq_ignore_ascii_case("utf-8") && !charset.eq_ignore_ascii_case("us-ascii") => {
            Err(ApiError::new(Code::UnsupportedMediaType, format!("JSON is UTF-8, and not '{charset}'")))
        }
        _ => Ok(mode),
    }
}

/// Data that is no CloudEvent becomes one, with defaults for all that it cannot say.
fn wrap(content_type: Option<&str>, body: &Bytes, defaults: Defaults<'_>) -> Result<Event, ApiError> {
    let json = serde_json::from_slice::<IgnoredAny>(body);
    let is_form =
        |kind: &str| kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(FORM_CONTENT_TYPE);
    let content_type = match (content_type, &json) {
        // JSON is no form: whoever sent it was given no type, and says so in this way.
        (Some(kind), Ok(_)) if is_form(kind) => None,
        (Some(kind), Err(error)) if is_json_type(Some(kind)) => {
            let detail = format!("the body is not the JSON that its Content-Type promises: {error}");
            return Err(ApiError::new(Code::BadEvent, detail).with_hint("correct it, or send it as text/plain"));
        }
        (kind, _) => kind,
    };
    if is_json_type(content_type) && json.is_ok() && is_nested_too_deep(body) {
        return Err(CloudEventError::TooDeep.into());
    }
    let read = read_binary(std::iter::empty(), content_type, body.clone(), Reading::Filling(defaults));
    Ok(read?.event)
}

fn read_batch(body: &[u8], reading: Reading<'_>, trace: Option<&TraceContext>) -> Result<Parsed, ApiError> {
    let Objects { objects, more } =
        serde_json::from_slice(body).map_err(|error| CloudEventError::Json(error.to_string()))?;
    if more > 0 {
        let detail = format!("{} events at once are too many: at most {MAX_PUBLISH_EVENTS}", objects.len() + more);
        return Err(ApiError::new(Code::BodyTooLarge, detail));
    }
    let (mut ids, mut events) = (Vec::with_capacity(objects.len()), Vec::with_capacity(objects.len()));
    for (object, number) in objects.iter().zip(1..) {
        let place = |error: ApiError| match objects.len() {
            1 => error,
            _ => error.at(format_args!("event {number}")),
        };
        let mut event = read_event(object, reading).map_err(|error| place(error.into()))?.event;
        if let Some(trace) = trace {
            trace.mark(&mut event);
        }
        events.push(event.encode().map_err(|error| place(error.into()))?);
        ids.push(event.id);
    }
    Ok((ids, events))
}

/// As many objects as may be published at once, and how many there are beyond, which take no memory.
struct Objects<'a> {
    objects: Vec<Object<'a>>,
    more: usize,
}

impl<'de: 'a, 'a> Deserialize<'de> for Objects<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Objects<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON array of events")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Objects<'de>, A::Error> {
                let mut objects = Vec::new();
                while objects.len() < MAX_PUBLISH_EVENTS
                    && let Some(object) = list.next_element()?
                {
                    objects.push(object);
                }
                let mut more = 0;
                while objects.len() == MAX_PUBLISH_EVENTS && list.next_element::<IgnoredAny>()?.is_some() {
                    more += 1;
                }
                Ok(Objects { objects, more })
            }
        }
        deserializer.deserialize_seq(List)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    fn read_with(pairs: &[(&'static str, &str)], body: &str) -> Result<Parsed, ApiError> {
        let defaults = Defaults { source: "/nodes/a", kind: DEFAULT_KIND };
        read(&headers(pairs), &Bytes::copy_from_slice(body.as_bytes()), defaults, false)
    }

    #[test]
    fn the_content_type_and_the_headers_tell_the_mode() {
        let ce = ("ce-id", "1");
        for (pairs, expected) in [
            (&[("content-type", "Application/CloudEvents+JSON; charset=UTF-8"), ce][..], Mode::Structured),
            (&[("content-type", "application/cloudevents-batch+json")], Mode::Batched),
            (&[("content-type", "application/json"), ce], Mode::Binary),
            (&[ce], Mode::Binary),
            (&[("content-type", "application/json")], Mode::Plain),
            (&[], Mode::Plain),
        ] {
            let headers = headers(pairs);
            let content_type = content_type(&headers).unwrap();
            assert_eq!(mode(&headers, content_type).unwrap(), expected, "{pairs:?}");
        }
        for bad in
            ["application/cloudevents+xml", "application/cloudevents", "application/cloudevents+json;charset=latin1"]
        {
            let error = read_with(&[("content-type", bad)], "{}").unwrap_err();
            assert_eq!(error.0.code, Code::UnsupportedMediaType, "{bad}");
        }
    }

    #[test]
    fn what_cloudevents_requires_has_to_be_there() {
        let all = [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/s"), ("ce-type", "t")];
        assert_eq!(read_with(&all, "x").unwrap().0, ["1"]);
        for missing in 0..all.len() {
            let rest: Vec<_> =
                all.iter().enumerate().filter(|(index, _)| *index != missing).map(|(_, pair)| *pair).collect();
            let error = read_with(&rest, "x").unwrap_err();
            assert!(error.0.detail.contains(&all[missing].0[3..]), "{error:?}");
        }
        let structured = [("content-type", EVENT_CONTENT_TYPE)];
        let error = read_with(&structured, r#"{"specversion":"1.0","source":"/s","type":"t"}"#).unwrap_err();
        assert!(error.0.detail.contains("id"), "{error:?}");
    }

    #[test]
    fn data_alone_becomes_an_event() {
        for (kind, body) in
            [("application/json", "[1]"), ("text/plain", "hello"), (FORM_CONTENT_TYPE, "{}"), ("a/b", "")]
        {
            assert_eq!(read_with(&[("content-type", kind)], body).unwrap().0.len(), 1, "{kind}");
        }
        assert_eq!(read_with(&[("content-type", "application/json")], "{").unwrap_err().0.code, Code::BadEvent);
    }
}

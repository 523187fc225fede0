//! JSON to events.

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use jiff::Timestamp;
use roundelay_protocol::event::{Event, Value};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{PLACE_PREFIX, is_json_type};

/// Members of one object, at most: what an event may have, and to spare.
const MAX_MEMBERS: usize = 256;

/// A JSON object whose values have not been looked at.
#[derive(Debug)]
pub struct Object<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object, as an event is")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some((Name(name), value)) = map.next_entry::<Name<'de>, &'de RawValue>()? {
                    if members.len() == MAX_MEMBERS {
                        return Err(serde::de::Error::custom("the object has more members than any event"));
                    }
                    members.push((name, value));
                }
                Ok(Object(members))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

#[derive(serde::Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// What an event gets that does not say it.
#[derive(Debug, Clone, Copy)]
pub struct Defaults<'a> {
    /// Its source, a URI reference.
    pub source: &'a str,
    /// Its type.
    pub kind: &'a str,
}

/// An event, and where it stood if it was read from a node before.
#[derive(Debug, Clone, PartialEq)]
pub struct Incoming {
    /// The event. Its limits are still to be checked, which [`Event::encode`] does.
    pub event: Event,
    /// `rdltopic`.
    pub topic: Option<String>,
}

/// Why JSON is no event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CloudEventError {
    /// Not JSON, or no object.
    #[error("this is no event in JSON: {0}")]
    Json(String),
    /// A required attribute is not there.
    #[error("the event has no {0}: CloudEvents requires it")]
    Missing(&'static str),
    /// Another version of CloudEvents.
    #[error("the event has specversion {0}: only \"1.0\" is known here")]
    SpecVersion(String),
    /// A name that CloudEvents does not allow.
    #[error("'{0}' cannot name an attribute: use lower-case letters and digits only")]
    BadName(String),
    /// An attribute that is there twice.
    #[error("the event's {0} is given twice")]
    Twice(String),
    /// A value of a type that the attribute cannot have.
    #[error("the event's {name} is {found}: it must be {expected}")]
    BadValue {
        /// The attribute.
        name: String,
        /// Its value, shortened.
        found: String,
        /// What it must be.
        expected: &'static str,
    },
    /// Both `data` and `data_base64`.
    #[error("the event has both data and data_base64: give one of them")]
    TwoData,
}

/// Reads one event. With defaults, whatever may be missing gets a value: the id a new UUID.
///
/// # Errors
/// When the object breaks the rules of CloudEvents.
pub fn read_event(object: &Object<'_>, defaults: Option<&Defaults<'_>>) -> Result<Incoming, CloudEventError> {
    let mut reader = Reader::default();
    for (index, (name, value)) in object.0.iter().enumerate() {
        if object.0[..index].iter().any(|(other, _)| other == name) {
            return Err(CloudEventError::Twice(name.clone().into_owned()));
        }
        // CloudEvents takes null for not set; as data it is a value.
        if value.get() != "null" || name == "data" {
            reader.member(name, value)?;
        }
    }
    reader.finish(defaults)
}

#[derive(Default)]
struct Reader<'a> {
    event: Event,
    topic: Option<String>,
    versioned: bool,
    data: Option<&'a RawValue>,
    data_base64: Option<Vec<u8>>,
}

impl<'a> Reader<'a> {
    fn member(&mut self, name: &str, value: &'a RawValue) -> Result<(), CloudEventError> {
        let event = &mut self.event;
        match name {
            "specversion" => match value.get() {
                r#""1.0""# => self.versioned = true,
                other => return Err(CloudEventError::SpecVersion(shorten(other))),
            },
            "id" => event.id = text(name, value)?,
            "source" => event.source = text(name, value)?,
            "type" => event.kind = text(name, value)?,
            "subject" => event.subject = maybe_text(name, value)?,
            "partitionkey" => event.key = maybe_text(name, value)?,
            "datacontenttype" => event.content_type = maybe_text(name, value)?,
            "correlationid" => event.correlation = maybe_text(name, value)?,
            "causationid" => event.causes = split_causes(&text(name, value)?),
            "rdltopic" => self.topic = Some(text(name, value)?),
            "data" => self.data = Some(value),
            "data_base64" => {
                let bytes = STANDARD.decode(text(name, value)?);
                self.data_base64 = Some(bytes.map_err(|_| bad_value(name, value, "base64 with padding"))?);
            }
            "time" => {
                let time = text(name, value)?;
                if time.parse::<Timestamp>().is_err() {
                    return Err(bad_value(name, value, "a time like 2026-01-31T09:00:00Z"));
                }
                event.extensions.push((name.to_owned(), Value::Text(time)));
            }
            _ if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()) => {
                return Err(CloudEventError::BadName(name.to_owned()));
            }
            _ if name.starts_with(PLACE_PREFIX) => {}
            _ => event.extensions.push((name.to_owned(), extension(name, value)?)),
        }
        Ok(())
    }

    fn finish(mut self, defaults: Option<&Defaults<'_>>) -> Result<Incoming, CloudEventError> {
        let event = &mut self.event;
        if let Some(defaults) = defaults {
            let fill = |text: &mut String, default: &str| {
                if text.is_empty() {
                    default.clone_into(text);
                }
            };
            fill(&mut event.source, defaults.source);
            fill(&mut event.kind, defaults.kind);
            if event.id.is_empty() {
                event.id = Uuid::now_v7().to_string();
            }
        } else if !self.versioned {
            return Err(CloudEventError::Missing("specversion"));
        }
        for (name, text) in [("id", &event.id), ("source", &event.source), ("type", &event.kind)] {
            if text.is_empty() {
                return Err(CloudEventError::Missing(name));
            }
        }
        event.extensions.sort_by(|(a, _), (b, _)| a.cmp(b));
        event.data = match (self.data, self.data_base64) {
            (Some(_), Some(_)) => return Err(CloudEventError::TwoData),
            (None, bytes) => bytes.unwrap_or_default().into(),
            (Some(value), None) => data(event.content_type.as_deref(), value),
        };
        Ok(Incoming { event: self.event, topic: self.topic })
    }
}

/// A text of another type than JSON is the data itself; everything else is JSON, and kept as it was written.
fn data(content_type: Option<&str>, value: &RawValue) -> Bytes {
    if !is_json_type(content_type)
        && let Ok(text) = serde_json::from_str::<String>(value.get())
    {
        return text.into();
    }
    Bytes::copy_from_slice(value.get().as_bytes())
}

fn text(name: &str, value: &RawValue) -> Result<String, CloudEventError> {
    serde_json::from_str(value.get()).map_err(|_| bad_value(name, value, "a text"))
}

/// Empty counts as not set, as CloudEvents has no empty texts.
fn maybe_text(name: &str, value: &RawValue) -> Result<Option<String>, CloudEventError> {
    Ok(Some(text(name, value)?).filter(|text| !text.is_empty()))
}

fn extension(name: &str, value: &RawValue) -> Result<Value, CloudEventError> {
    let json = value.get();
    match json.as_bytes().first() {
        Some(b't' | b'f') => Ok(Value::Bool(json == "true")),
        Some(b'"') => text(name, value).map(Value::Text),
        _ => {
            json.parse().map(Value::Int).map_err(|_| bad_value(name, value, "a text, a whole number or a truth value"))
        }
    }
}

fn split_causes(text: &str) -> Vec<String> {
    if !text.contains(',') {
        return Some(text).filter(|text| !text.is_empty()).map(str::to_owned).into_iter().collect();
    }
    let parts = text.split(',').filter(|part| !part.is_empty());
    parts.map(|part| part.replace("%2C", ",").replace("%25", "%")).collect()
}

fn bad_value(name: &str, value: &RawValue, expected: &'static str) -> CloudEventError {
    CloudEventError::BadValue { name: name.to_owned(), found: shorten(value.get()), expected }
}

fn shorten(json: &str) -> String {
    const MAX_CHARS: usize = 40;
    match json.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("{}...", &json[..end]),
        None => json.to_owned(),
    }
}

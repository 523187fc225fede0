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

use super::{MAX_JSON_DEPTH, PLACE_PREFIX, Reading, is_json_type, is_nested_too_deep, rules};

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

/// An event, and where it stood if it was read from a node before.
#[derive(Debug, Clone, PartialEq)]
pub struct Incoming {
    /// The event. Its limits are still to be checked, which [`Event::encode`] does.
    pub event: Event,
    /// `rdltopic`.
    pub topic: Option<String>,
}

/// Why something is no event.
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
    /// `data` in JSON that many readers would not take.
    #[error("the event's data is nested deeper than {MAX_JSON_DEPTH} values: give it as a text, or in data_base64")]
    TooDeep,
}

/// Reads one event.
///
/// # Errors
/// When the object breaks the rules of CloudEvents.
pub fn read_event(object: &Object<'_>, reading: Reading<'_>) -> Result<Incoming, CloudEventError> {
    let mut reader = Reader::default();
    let (mut json, mut base64) = (None, None);
    for (index, (name, value)) in object.0.iter().enumerate() {
        if object.0[..index].iter().any(|(other, _)| other == name) {
            return Err(CloudEventError::Twice(name.clone().into_owned()));
        }
        match name.as_ref() {
            "data" => json = Some(*value),
            // CloudEvents takes null for not set; as data it is a value.
            _ if value.get() == "null" => {}
            "data_base64" => {
                let bytes = STANDARD.decode(text(name, value)?);
                base64 = Some(bytes.map_err(|_| bad_value(name, value, "base64 with padding"))?);
            }
            "datacontenttype" => reader.content_type(Some(&text(name, value)?)),
            "specversion" if !value.get().starts_with('"') => {
                return Err(CloudEventError::SpecVersion(shorten(value.get())));
            }
            _ if is_core(name) => reader.text(name, text(name, value)?)?,
            _ => reader.extension(name, extension(name, value)?)?,
        }
    }
    let data = match (json, base64) {
        (Some(_), Some(_)) => return Err(CloudEventError::TwoData),
        (None, bytes) => bytes.unwrap_or_default().into(),
        (Some(value), None) if is_nested_too_deep(value.get().as_bytes()) => return Err(CloudEventError::TooDeep),
        (Some(value), None) => data(reader.event.content_type.as_deref(), value),
    };
    reader.finish(reading, data)
}

/// Whether an attribute is a text by the rules, so that it cannot have a value of another type.
fn is_core(name: &str) -> bool {
    let core = ["specversion", "id", "source", "type", "subject", "time", "dataschema"];
    core.contains(&name) || ["partitionkey", "correlationid", "causationid", "rdltopic"].contains(&name)
}

/// Gathers attributes, wherever they come from.
#[derive(Default)]
pub(super) struct Reader {
    event: Event,
    topic: Option<String>,
    versioned: bool,
}

impl Reader {
    /// An attribute whose value is a text.
    pub(super) fn text(&mut self, name: &str, text: String) -> Result<(), CloudEventError> {
        let event = &mut self.event;
        match name {
            "specversion" if text == "1.0" => self.versioned = true,
            "specversion" => return Err(CloudEventError::SpecVersion(shorten(&format!("{text:?}")))),
            "id" => event.id = required(name, text)?,
            "source" => event.source = required(name, text)?,
            "type" => event.kind = required(name, text)?,
            "subject" => event.subject = Some(text),
            "partitionkey" => event.key = Some(text),
            "correlationid" => event.correlation = Some(text),
            "causationid" => event.causes = split_causes(&text),
            "rdltopic" => self.topic = Some(text),
            "time" if !rules::is_time(&text) && text.parse::<Timestamp>().is_err() => {
                return Err(CloudEventError::bad_value(name, &format!("{text:?}"), "a time like 2026-01-31T09:00:00Z"));
            }
            _ => self.extension(name, Value::Text(text))?,
        }
        Ok(())
    }

    /// An attribute that CloudEvents does not know.
    fn extension(&mut self, name: &str, value: Value) -> Result<(), CloudEventError> {
        let is_named_well = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        if !is_named_well || ["", "data", "datacontenttype"].contains(&name) {
            return Err(CloudEventError::BadName(name.to_owned()));
        }
        if !name.starts_with(PLACE_PREFIX) {
            self.event.extensions.push((name.to_owned(), value));
        }
        Ok(())
    }

    pub(super) fn content_type(&mut self, content_type: Option<&str>) {
        self.event.content_type = content_type.map(str::to_owned);
    }

    pub(super) fn finish(mut self, reading: Reading<'_>, data: Bytes) -> Result<Incoming, CloudEventError> {
        let event = &mut self.event;
        if let Reading::Filling(defaults) = reading {
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
        event.data = data;
        if reading.is_strict() {
            rules::check(event)?;
        } else {
            // There are nodes that give out empty texts, which CloudEvents does not have: they count as not set.
            for text in [&mut event.subject, &mut event.key, &mut event.content_type, &mut event.correlation] {
                *text = text.take().filter(|text| !text.is_empty());
            }
        }
        Ok(Incoming { event: self.event, topic: self.topic })
    }
}

fn required(name: &str, text: String) -> Result<String, CloudEventError> {
    match text.as_str() {
        "" => Err(CloudEventError::bad_value(name, "empty", "a text that is not empty")),
        _ => Ok(text),
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
    CloudEventError::bad_value(name, value.get(), expected)
}

impl CloudEventError {
    pub(super) fn bad_value(name: &str, found: &str, expected: &'static str) -> Self {
        Self::BadValue { name: name.to_owned(), found: shorten(found), expected }
    }
}

fn shorten(json: &str) -> String {
    const MAX_CHARS: usize = 40;
    match json.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("{}...", &json[..end]),
        None => json.to_owned(),
    }
}

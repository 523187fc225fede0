//! Events: CloudEvents 1.0 attributes, data, and what links an event to others. One codec, two views: [`Event`] owns
//! its parts, [`EventView`] borrows them from a batch.

use bytes::Bytes;

use crate::codec::{CodecError, Reader, Writer};
use crate::hlc::Hlc;
use crate::limits::{MAX_ATTRIBUTE_BYTES, MAX_CAUSES, MAX_EVENT_BYTES, MAX_EXTENSIONS};

/// Items of the tuple that an event is, the HLC delta included.
const ITEM_FIELDS: usize = 11;

/// The value of an extension attribute.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A text; also what CloudEvents calls URI and timestamp.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
}

/// What a service publishes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Event {
    /// What happened, such as `order.placed`. Not empty.
    pub kind: String,
    /// Unique together with the source. Not empty.
    pub id: String,
    /// Where it happened: a URI reference. Not empty.
    pub source: String,
    /// What it is about, within the source.
    pub subject: Option<String>,
    /// Events with one key belong together: compaction and ordered processing go by it.
    pub key: Option<String>,
    /// Media type of the data.
    pub content_type: Option<String>,
    /// Ids of the events that caused this one.
    pub causes: Vec<String>,
    /// What ties the events of one process together.
    pub correlation: Option<String>,
    /// Further attributes, sorted by name.
    pub extensions: Vec<(String, Value)>,
    /// The payload.
    pub data: Bytes,
}

/// Why an event cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// A required attribute is empty.
    #[error("the event's {0} is empty: CloudEvents requires it")]
    Missing(&'static str),
    /// A text attribute is longer than [`MAX_ATTRIBUTE_BYTES`].
    #[error("the event's {what} has {found} bytes: the limit is {MAX_ATTRIBUTE_BYTES}")]
    AttributeTooLong {
        /// The attribute.
        what: String,
        /// Its length in bytes.
        found: usize,
    },
    /// More causes or extensions than an event may have.
    #[error("the event has {found} {what}: the limit is {limit}")]
    TooMany {
        /// Causes or extensions.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// How many there may be.
        limit: usize,
    },
    /// A name that CloudEvents does not allow for an attribute.
    #[error("'{0}' cannot name an attribute: use lower-case letters and digits only")]
    BadName(String),
    /// The whole is larger than [`MAX_EVENT_BYTES`].
    #[error(
        "an event of {found} bytes is too large: the limit is {MAX_EVENT_BYTES}; store the payload elsewhere and publish a reference to it"
    )]
    TooLarge {
        /// Its encoded size in bytes.
        found: usize,
    },
}

/// An event's item without the head of its tuple and the HLC delta, which are only known when it is sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedEvent(Bytes);

impl EncodedEvent {
    /// Bytes that the event takes in a batch, at most.
    #[must_use]
    pub fn item_bytes(&self) -> usize {
        self.0.len() + 10
    }

    /// Its bytes; those of equal events are equal.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The event's source and id, which together name it.
    #[must_use]
    pub fn source_and_id(&self) -> (&str, &str) {
        let mut reader = Reader::new(&self.0);
        let mut text = |what| reader.text(what, MAX_ATTRIBUTE_BYTES).unwrap_or_default();
        // It was encoded here, so that these are there.
        let (_, id, source) = (text("type"), text("id"), text("source"));
        (source, id)
    }

    /// Whether the event has an extension attribute of this name.
    #[must_use]
    pub fn has_extension(&self, name: &str) -> bool {
        let find = || -> Result<bool, CodecError> {
            let mut reader = Reader::new(&self.0);
            for what in ["type", "id", "source"] {
                reader.text(what, MAX_ATTRIBUTE_BYTES)?;
            }
            for what in ["subject", "key", "content type"] {
                reader.maybe_text(what, MAX_ATTRIBUTE_BYTES)?;
            }
            for _ in 0..reader.list("causes", MAX_CAUSES)? {
                reader.text("cause", MAX_ATTRIBUTE_BYTES)?;
            }
            reader.maybe_text("correlation", MAX_ATTRIBUTE_BYTES)?;
            for _ in 0..reader.list("extensions", MAX_EXTENSIONS * 2)? / 2 {
                if read_extension(&mut reader)?.0 == name {
                    return Ok(true);
                }
            }
            Ok(false)
        };
        // It was encoded here, so that all of it is there.
        find().unwrap_or(false)
    }

    /// The event again.
    ///
    /// # Errors
    /// Never for what [`Event::encode`] made.
    pub fn decode(&self) -> Result<Event, CodecError> {
        let item = self.write_item(Vec::new(), 0);
        match Item::read(&mut Reader::new(&item), Hlc(0))? {
            Item::Event(view) => Ok(view.to_event()),
            Item::Dropped(_) => Err(CodecError::Malformed("event")),
        }
    }

    /// Appends the whole item to a body.
    pub(crate) fn write_item(&self, body: Vec<u8>, delta: u64) -> Vec<u8> {
        let mut writer = Writer::on(body);
        writer.array(ITEM_FIELDS).uint(delta).raw(&self.0);
        writer.finish()
    }
}

impl Event {
    /// Checks the event and encodes it.
    ///
    /// # Errors
    /// When an attribute is missing or anything is beyond its limit. Nothing has happened then.
    pub fn encode(&self) -> Result<EncodedEvent, EventError> {
        self.check()?;
        let mut writer = Writer::on(Vec::with_capacity(self.data.len() + 192));
        writer.text(&self.kind).text(&self.id).text(&self.source);
        writer.maybe_text(self.subject.as_deref()).maybe_text(self.key.as_deref());
        writer.maybe_text(self.content_type.as_deref());
        writer.array(self.causes.len());
        for cause in &self.causes {
            writer.text(cause);
        }
        writer.maybe_text(self.correlation.as_deref());
        writer.array(self.extensions.len() * 2);
        for (name, value) in &self.extensions {
            writer.text(name);
            match value {
                Value::Bool(value) => writer.bool(*value),
                Value::Int(value) => writer.int(*value),
                Value::Text(value) => writer.text(value),
                Value::Bytes(value) => writer.bytes(value),
            };
        }
        writer.bytes(&self.data);
        let encoded = EncodedEvent(writer.finish().into());
        match encoded.item_bytes() {
            found if found > MAX_EVENT_BYTES => Err(EventError::TooLarge { found }),
            _ => Ok(encoded),
        }
    }

    fn check(&self) -> Result<(), EventError> {
        for (what, text) in [("type", &self.kind), ("id", &self.id), ("source", &self.source)] {
            if text.is_empty() {
                return Err(EventError::Missing(what));
            }
            check_length(what, text)?;
        }
        let optional = [
            ("subject", &self.subject),
            ("key", &self.key),
            ("content type", &self.content_type),
            ("correlation", &self.correlation),
        ];
        for (what, text) in optional {
            check_length(what, text.as_deref().unwrap_or_default())?;
        }
        self.causes.iter().try_for_each(|cause| check_length("cause", cause))?;
        if self.causes.len() > MAX_CAUSES {
            return Err(EventError::TooMany { what: "causes", found: self.causes.len(), limit: MAX_CAUSES });
        }
        if self.extensions.len() > MAX_EXTENSIONS {
            return Err(EventError::TooMany {
                what: "extension attributes",
                found: self.extensions.len(),
                limit: MAX_EXTENSIONS,
            });
        }
        for (name, value) in &self.extensions {
            check_length(name, name)?;
            if name.is_empty() || !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()) {
                return Err(EventError::BadName(name.clone()));
            }
            match value {
                Value::Text(text) => check_length(name, text)?,
                Value::Bytes(bytes) if bytes.len() > MAX_ATTRIBUTE_BYTES => {
                    return Err(EventError::AttributeTooLong { what: name.clone(), found: bytes.len() });
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn check_length(what: &str, text: &str) -> Result<(), EventError> {
    if text.len() > MAX_ATTRIBUTE_BYTES {
        return Err(EventError::AttributeTooLong { what: what.to_owned(), found: text.len() });
    }
    Ok(())
}

/// An event in a batch, borrowed from its bytes. The fields are those of [`Event`].
#[derive(Debug, Clone, PartialEq)]
pub struct EventView<'a> {
    /// When it was published, in the order of its author's events.
    pub hlc: Hlc,
    /// See [`Event::kind`].
    pub kind: &'a str,
    /// See [`Event::id`].
    pub id: &'a str,
    /// See [`Event::source`].
    pub source: &'a str,
    /// See [`Event::subject`].
    pub subject: Option<&'a str>,
    /// See [`Event::key`].
    pub key: Option<&'a str>,
    /// See [`Event::content_type`].
    pub content_type: Option<&'a str>,
    /// See [`Event::causes`].
    pub causes: Vec<&'a str>,
    /// See [`Event::correlation`].
    pub correlation: Option<&'a str>,
    /// See [`Event::extensions`].
    pub extensions: Vec<(&'a str, Value)>,
    /// See [`Event::data`].
    pub data: &'a [u8],
}

/// One place in a batch's body.
#[derive(Debug, Clone, PartialEq)]
pub enum Item<'a> {
    /// The event is here.
    Event(EventView<'a>),
    /// The event was dropped; its hash keeps the batch verifiable.
    Dropped([u8; 32]),
}

impl<'a> Item<'a> {
    /// Reads the next item of a body. `base` is the HLC of the batch's first event.
    pub(crate) fn read(reader: &mut Reader<'a>, base: Hlc) -> Result<Self, CodecError> {
        const BYTE_STRING: u8 = 2;
        if reader.peek().is_some_and(|byte| byte >> 5 == BYTE_STRING) {
            return reader.fixed("dropped event").map(Self::Dropped);
        }
        reader.tuple("event", ITEM_FIELDS)?;
        let delta = reader.uint("event time")?;
        let hlc = Hlc(base.0.checked_add(delta).ok_or(CodecError::OutOfBounds("event time"))?);
        let kind = required(reader, "type")?;
        let id = required(reader, "id")?;
        let source = required(reader, "source")?;
        let subject = reader.maybe_text("subject", MAX_ATTRIBUTE_BYTES)?;
        let key = reader.maybe_text("key", MAX_ATTRIBUTE_BYTES)?;
        let content_type = reader.maybe_text("content type", MAX_ATTRIBUTE_BYTES)?;
        let count = reader.list("causes", MAX_CAUSES)?;
        let causes = (0..count).map(|_| reader.text("cause", MAX_ATTRIBUTE_BYTES)).collect::<Result<_, _>>()?;
        let correlation = reader.maybe_text("correlation", MAX_ATTRIBUTE_BYTES)?;
        let count = reader.list("extensions", MAX_EXTENSIONS * 2)?;
        if !count.is_multiple_of(2) {
            return Err(CodecError::Malformed("extensions"));
        }
        let extensions = (0..count / 2).map(|_| read_extension(reader)).collect::<Result<_, _>>()?;
        let data = reader.bytes("data", MAX_EVENT_BYTES)?;
        Ok(Self::Event(EventView {
            hlc,
            kind,
            id,
            source,
            subject,
            key,
            content_type,
            causes,
            correlation,
            extensions,
            data,
        }))
    }
}

fn required<'a>(reader: &mut Reader<'a>, what: &'static str) -> Result<&'a str, CodecError> {
    let text = reader.text(what, MAX_ATTRIBUTE_BYTES)?;
    if text.is_empty() { Err(CodecError::OutOfBounds(what)) } else { Ok(text) }
}

fn read_extension<'a>(reader: &mut Reader<'a>) -> Result<(&'a str, Value), CodecError> {
    let name = reader.text("extension name", MAX_ATTRIBUTE_BYTES)?;
    let value = match reader.peek().map(|byte| byte >> 5) {
        Some(0 | 1) => Value::Int(reader.int("extension")?),
        Some(2) => Value::Bytes(reader.bytes("extension", MAX_ATTRIBUTE_BYTES)?.to_vec()),
        Some(3) => Value::Text(reader.text("extension", MAX_ATTRIBUTE_BYTES)?.to_owned()),
        _ => Value::Bool(reader.bool("extension")?),
    };
    Ok((name, value))
}

impl EventView<'_> {
    /// A copy that owns its parts.
    #[must_use]
    pub fn to_event(&self) -> Event {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Event {
            kind: self.kind.to_owned(),
            id: self.id.to_owned(),
            source: self.source.to_owned(),
            subject: owned(self.subject),
            key: owned(self.key),
            content_type: owned(self.content_type),
            causes: self.causes.iter().map(|&cause| cause.to_owned()).collect(),
            correlation: owned(self.correlation),
            extensions: self.extensions.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
            data: Bytes::copy_from_slice(self.data),
        }
    }
}

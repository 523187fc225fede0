//! A declaration as it is written: the file's form, and the builder for those who write it in Rust.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use super::declaration::{Declaration, End};
use super::finding::Finding;
use super::unique;

/// The format of the file that this program reads and writes.
pub const FORMAT: u64 = 1;
/// Bytes of the largest file that is read.
pub const MAX_FILE_BYTES: usize = 256 * 1024;

/// Why a file is no declaration. Nothing has changed then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DraftError {
    /// The file is larger than [`MAX_FILE_BYTES`].
    #[error("a declaration of {0} bytes is too large: the limit is {MAX_FILE_BYTES}; split the choreography")]
    TooLarge(usize),
    /// Not TOML, or a table, a key or a value that the format does not have.
    #[error("the declaration cannot be read as TOML: {0}")]
    Toml(String),
    /// Not JSON, or an object, a member or a value that the format does not have.
    #[error("the declaration cannot be read as JSON: {0}")]
    Json(String),
    /// The file can be read, and what it says does not fit together.
    #[error("the declaration has {} flaws of form; the first: {}", .0.len(), .0.first().map(Finding::to_string).unwrap_or_default())]
    Form(Vec<Finding>),
}

/// A declaration as it is written. [`Draft::declare`] judges its form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Draft {
    /// [`FORMAT`].
    pub format: u64,
    /// The choreography's name, which all its versions share.
    pub name: String,
    /// The state before an instance's first event.
    pub start: String,
    /// Roles by name.
    #[serde(deserialize_with = "unique::map")]
    pub roles: BTreeMap<String, RoleDraft>,
    /// Events by type.
    #[serde(deserialize_with = "unique::map")]
    pub events: BTreeMap<String, EventDraft>,
    /// States by name.
    #[serde(deserialize_with = "unique::map")]
    pub states: BTreeMap<String, StateDraft>,
}

/// A role: a part in the process that one service, or several replicas of it, play.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RoleDraft {
    /// Types of the events of others that it receives.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sees: Vec<String>,
    /// CloudEvents sources of which it is known. None: any source may play it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<String>,
    /// Ids of the nodes at which it is played. None: it may be played at any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<String>,
}

/// A type of events.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventDraft {
    /// The role that emits it.
    pub by: String,
    /// The topic, or the pattern of topics, that it is published to. None: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// Whether it stands for an effect that has to be undone when the process fails.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub effect: bool,
    /// The type of the event that says that the effect was undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compensation: Option<String>,
}

/// A state of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StateDraft {
    /// Where each possible event leads.
    #[serde(deserialize_with = "unique::map", skip_serializing_if = "BTreeMap::is_empty")]
    pub on: BTreeMap<String, TransitionDraft>,
    /// What happens when none of them comes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline: Option<DeadlineDraft>,
    /// That an instance ends here, and how.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<End>,
}

/// Where an event leads: in a file the state's name, or `{ to = "...", loop = true }`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransitionDraft {
    /// The next state.
    pub to: String,
    /// That it closes a loop on purpose.
    pub is_loop: bool,
}

/// What ends a wait in which nothing comes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeadlineDraft {
    /// The span after the stamp of the event that began the wait, such as `30s` or `7d`.
    pub after: String,
    /// The type of the event that is emitted then, by the role that emits this type.
    pub event: String,
    /// The next state.
    pub to: String,
    /// That it closes a loop on purpose.
    #[serde(default, rename = "loop", skip_serializing_if = "std::ops::Not::not")]
    pub is_loop: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LongTransition {
    to: String,
    #[serde(default, rename = "loop")]
    is_loop: bool,
}

impl Serialize for TransitionDraft {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self.is_loop {
            false => to.serialize_str(&self.to),
            true => LongTransition { to: self.to.clone(), is_loop: true }.serialize(to),
        }
    }
}

impl<'de> Deserialize<'de> for TransitionDraft {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct ShortOrLong;

        impl<'de> Visitor<'de> for ShortOrLong {
            type Value = TransitionDraft;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the next state's name, or a table with 'to' and 'loop'")
            }

            fn visit_str<E: Error>(self, to: &str) -> Result<Self::Value, E> {
                Ok(TransitionDraft { to: to.to_owned(), is_loop: false })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                let LongTransition { to, is_loop } = LongTransition::deserialize(MapAccessDeserializer::new(map))?;
                Ok(TransitionDraft { to, is_loop })
            }
        }

        from.deserialize_any(ShortOrLong)
    }
}

impl Draft {
    /// An empty draft, for the methods below to fill.
    #[must_use]
    pub fn new(name: &str, start: &str) -> Self {
        Self {
            format: FORMAT,
            name: name.to_owned(),
            start: start.to_owned(),
            roles: BTreeMap::new(),
            events: BTreeMap::new(),
            states: BTreeMap::new(),
        }
    }

    /// Reads a file in TOML.
    ///
    /// # Errors
    /// When it is too large or not of this format.
    pub fn from_toml(text: &str) -> Result<Self, DraftError> {
        check_size(text)?;
        toml::from_str(text).map_err(|error| DraftError::Toml(error.to_string()))
    }

    /// Reads a file in JSON.
    ///
    /// # Errors
    /// When it is too large or not of this format.
    pub fn from_json(text: &str) -> Result<Self, DraftError> {
        check_size(text)?;
        serde_json::from_str(text).map_err(|error| DraftError::Json(error.to_string()))
    }

    /// The file in JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Maps of texts to plain structures: writing them to memory cannot fail.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// The file in TOML.
    #[must_use]
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self).unwrap_or_default()
    }

    /// The declaration, when the form is sound: names, bounds, and that all that is named is there.
    ///
    /// # Errors
    /// With everything that is wrong.
    pub fn declare(&self) -> Result<Declaration, DraftError> {
        Declaration::from_draft(self).map_err(DraftError::Form)
    }

    /// Adds a role that sees these types of events.
    #[must_use]
    pub fn role(mut self, name: &str, sees: &[&str]) -> Self {
        let role = self.roles.entry(name.to_owned()).or_default();
        role.sees = sees.iter().map(|&kind| kind.to_owned()).collect();
        self
    }

    /// Names the sources by which a role is known.
    #[must_use]
    pub fn sources(mut self, role: &str, sources: &[&str]) -> Self {
        let role = self.roles.entry(role.to_owned()).or_default();
        role.sources = sources.iter().map(|&source| source.to_owned()).collect();
        self
    }

    /// Names the nodes at which a role is played, by their ids.
    #[must_use]
    pub fn nodes(mut self, role: &str, nodes: &[&str]) -> Self {
        let role = self.roles.entry(role.to_owned()).or_default();
        role.nodes = nodes.iter().map(|&node| node.to_owned()).collect();
        self
    }

    /// Adds a type of events and the role that emits it.
    #[must_use]
    pub fn event(mut self, kind: &str, by: &str) -> Self {
        self.events.entry(kind.to_owned()).or_default().by = by.to_owned();
        self
    }

    /// Says where a type is published.
    #[must_use]
    pub fn topic(mut self, kind: &str, topic: &str) -> Self {
        self.events.entry(kind.to_owned()).or_default().topic = Some(topic.to_owned());
        self
    }

    /// Says that a type stands for an effect, and what undoes it.
    #[must_use]
    pub fn effect(mut self, kind: &str, compensation: Option<&str>) -> Self {
        let event = self.events.entry(kind.to_owned()).or_default();
        event.effect = true;
        event.compensation = compensation.map(str::to_owned);
        self
    }

    /// Adds a transition.
    #[must_use]
    pub fn on(self, state: &str, kind: &str, to: &str) -> Self {
        self.transition(state, kind, to, false)
    }

    /// Adds a transition that closes a loop on purpose.
    #[must_use]
    pub fn loops(self, state: &str, kind: &str, to: &str) -> Self {
        self.transition(state, kind, to, true)
    }

    fn transition(mut self, state: &str, kind: &str, to: &str, is_loop: bool) -> Self {
        let state = self.states.entry(state.to_owned()).or_default();
        state.on.insert(kind.to_owned(), TransitionDraft { to: to.to_owned(), is_loop });
        self
    }

    /// Sets a state's deadline: after this span (such as `30s`) this event leads there.
    #[must_use]
    pub fn deadline(self, state: &str, after: &str, kind: &str, to: &str) -> Self {
        self.set_deadline(state, after, kind, to, false)
    }

    /// Sets a state's deadline that closes a loop on purpose, such as one that reminds again and again.
    #[must_use]
    pub fn deadline_loops(self, state: &str, after: &str, kind: &str, to: &str) -> Self {
        self.set_deadline(state, after, kind, to, true)
    }

    fn set_deadline(mut self, state: &str, after: &str, kind: &str, to: &str, is_loop: bool) -> Self {
        let state = self.states.entry(state.to_owned()).or_default();
        let (after, event, to) = (after.to_owned(), kind.to_owned(), to.to_owned());
        state.deadline = Some(DeadlineDraft { after, event, to, is_loop });
        self
    }

    /// Makes a state an end.
    #[must_use]
    pub fn end(mut self, state: &str, end: End) -> Self {
        self.states.entry(state.to_owned()).or_default().end = Some(end);
        self
    }
}

fn check_size(text: &str) -> Result<(), DraftError> {
    if text.len() > MAX_FILE_BYTES { Err(DraftError::TooLarge(text.len())) } else { Ok(()) }
}

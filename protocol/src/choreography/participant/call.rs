//! What a handler is given, and what it gives back.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::super::conformance::{EventRef, Instance, Superseded};
use super::super::determined::Answer;
use crate::hlc::Hlc;
use crate::topic::Topic;

/// An event that a handler is called for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// Where it was published.
    pub topic: Topic,
    /// Where it happened.
    pub source: String,
    /// Its id.
    pub id: String,
    /// Its type.
    pub kind: String,
    /// What it is about.
    pub subject: Option<String>,
    /// Media type of its data.
    pub content_type: Option<String>,
    /// Its instance.
    pub correlation: String,
    /// Its stamp.
    pub stamp: Hlc,
    /// Its data.
    pub data: Bytes,
}

impl Received {
    /// Its stamp, in milliseconds since 1970.
    #[must_use]
    pub fn at_ms(&self) -> u64 {
        self.stamp.as_ms()
    }
}

/// Why a handler is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The event was a step of its instance, and the role handles its type.
    Step,
    /// The event is one of this role's own that did something outside the mesh, and another event decided before it: what
    /// it did is to be undone. Its subject, content type and data are left out: only what names it is known.
    Undo(Box<Superseded>),
}

/// What a handler is called with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The choreography.
    pub choreography: Arc<str>,
    /// The role that is played.
    pub role: Arc<str>,
    /// The event.
    pub event: Received,
    /// Why it is called.
    pub reason: Reason,
    /// The event that is answered; of an undoing, the one that the undone event had answered.
    pub answered: EventRef,
    /// The instance as it is after all of its events that are here: the event's own step, and what has come since.
    pub instance: Instance,
    /// How often the event was delivered, this time included.
    pub attempt: u32,
}

impl Call {
    /// The key of something that is done outside the mesh, such as a payment: the same at every attempt, on every replica
    /// of the role and after a restore, so that whoever takes keys against repeats does it once. `effect` tells
    /// several things apart that are done for one event. An undoing is given the key of what it undoes.
    #[must_use]
    pub fn effect_key(&self, effect: &str) -> String {
        let Self { choreography, role, answered, .. } = self;
        Answer { choreography, role, source: &answered.source, id: &answered.id }.effect_key(effect)
    }

    /// The event's data, which is JSON.
    ///
    /// # Errors
    /// When it is not what is expected, which trying again will not change.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_slice(&self.event.data).map_err(|error| {
            Failure::terminal(format!("the data of {} is not what is expected: {error}", self.event.kind))
        })
    }
}

/// An event that a handler wants to be emitted. Its id, causes, correlation, source, role and version follow from what
/// it answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Emission {
    /// Its type.
    pub kind: String,
    /// What it is about.
    pub subject: Option<String>,
    /// Media type of its data.
    pub content_type: Option<String>,
    /// Its data.
    pub data: Bytes,
    /// Where it is published; none: where the declaration says, or else the participant's own topic.
    pub topic: Option<Topic>,
}

impl Emission {
    /// An event without data.
    #[must_use]
    pub fn new(kind: &str) -> Self {
        Self { kind: kind.to_owned(), subject: None, content_type: None, data: Bytes::new(), topic: None }
    }

    /// An event with data in JSON.
    ///
    /// # Errors
    /// When the data cannot be written as JSON.
    pub fn json(kind: &str, data: &impl Serialize) -> Result<Self, Failure> {
        let data = serde_json::to_vec(data)
            .map_err(|error| Failure::terminal(format!("the data of {kind} cannot be written as JSON: {error}")))?;
        Ok(Self { content_type: Some("application/json".to_owned()), data: data.into(), ..Self::new(kind) })
    }

    /// The same about something.
    #[must_use]
    pub fn about(self, subject: &str) -> Self {
        Self { subject: Some(subject.to_owned()), ..self }
    }

    /// The same in a topic.
    #[must_use]
    pub fn to(self, topic: Topic) -> Self {
        Self { topic: Some(topic), ..self }
    }
}

/// Why a handler could not do its part. Nothing that it wanted to emit is emitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What went wrong, for whoever reads the dead letter.
    pub reason: String,
    /// Whether trying again cannot help.
    pub is_terminal: bool,
}

impl Failure {
    /// It is tried again, after a while.
    #[must_use]
    pub fn transient(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), is_terminal: false }
    }

    /// It is not tried again: the event goes to the dead letters at once.
    #[must_use]
    pub fn terminal(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), is_terminal: true }
    }
}

/// Whatever goes wrong may go right the next time, unless a handler says otherwise.
impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::transient(error.to_string())
    }
}

/// What came of a call.
pub type Outcome = Result<Vec<Emission>, Failure>;
/// A handler at work.
pub type Handling = Pin<Box<dyn Future<Output = Outcome> + Send>>;
/// A handler.
pub(super) type Handler = Arc<dyn Fn(Call) -> Handling + Send + Sync>;

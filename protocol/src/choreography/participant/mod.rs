//! Participants: whoever plays a role of a choreography, with a handler for each type of event that it answers.
//!
//! A [`Participant`] is a description: handlers by type, and what undoes what. It decides nothing by a clock or a store of
//! its own; what there is to do follows from the events that are here, so that it is the same for every replica
//! of a role and after every crash. Whoever runs it (a node, or the simulator of `rehearsal`) asks:
//!
//! 1. [`Participant::course`]: an event was delivered. Is its handler to be called? Only when it is a step of its instance that no
//!    replica has answered. What is superseded or violating is passed over.
//! 2. [`Participant::call`]: what the handler is called with.
//! 3. [`Participant::answer`]: the handler wants to emit. What the role, or the state of the instance, does not allow is refused
//!    here and reaches nobody. What is allowed gets a determined id ([`super::determined`]), its cause, correlation,
//!    role and version.
//! 4. [`Participant::overdue`]: deadlines that the role sees to, and that have passed: each an event with a determined id.
//! 5. [`Participant::owed`]: own events that did something and are superseded: their undoing is to be called.
//! 6. [`Participant::stalled`]: an event was passed over, and has become a step since.
//! 7. [`Participant::failed`]: the last attempt failed. That becomes an event too, so that nobody waits in silence.
//!
//! What is handled with [`Participant::on_stable`] is to be called only when nothing can come before it any more.

mod call;
mod error;
mod part;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::sync::Arc;

pub use call::{Call, Emission, Failure, Handling, Outcome, Reason, Received};
pub use error::{CastError, Refused};
pub use part::{Course, GivingUp, Planned};

use self::call::Handler;
use super::declaration::Declaration;
use crate::ids::Author;
use crate::topic::Topic;

/// Events that one answer emits, at most.
pub const MAX_EMISSIONS: usize = 64;

/// A role of a choreography with its handlers.
#[derive(Clone)]
pub struct Participant {
    choreography: Arc<str>,
    role: Arc<str>,
    source: Option<String>,
    topic: Option<Topic>,
    handlers: BTreeMap<String, Handler>,
    /// Types whose handlers wait until an event is stable.
    patient: BTreeSet<String>,
    undoings: BTreeMap<String, Handler>,
    failed: Option<String>,
}

impl Participant {
    /// Begins to describe who plays a role.
    #[must_use]
    pub fn new(choreography: &str, role: &str) -> Self {
        Self {
            choreography: choreography.into(),
            role: role.into(),
            source: None,
            topic: None,
            handlers: BTreeMap::new(),
            patient: BTreeSet::new(),
            undoings: BTreeMap::new(),
            failed: None,
        }
    }

    /// Answers events of a type with a handler, each time that one is a step of its instance. What the handler does outside
    /// the mesh may be done again after a crash: it is to use [`Call::effect_key`].
    #[must_use]
    pub fn on<F, A>(mut self, kind: &str, handler: F) -> Self
    where
        F: Fn(Call) -> A + Send + Sync + 'static,
        A: Future<Output = Outcome> + Send + 'static,
    {
        self.patient.remove(kind);
        self.handlers.insert(kind.to_owned(), Arc::new(move |call| Box::pin(handler(call))));
        self
    }

    /// The same, but not before the event is stable: when nothing can come any more with which something else had decided
    /// before it. For what cannot be undone, such as a parcel that is sent: where the event is superseded by then, nothing
    /// was done. It takes until everybody was heard of, and a deadline of the wait that it is to end passes meanwhile.
    #[must_use]
    pub fn on_stable<F, A>(mut self, kind: &str, handler: F) -> Self
    where
        F: Fn(Call) -> A + Send + Sync + 'static,
        A: Future<Output = Outcome> + Send + 'static,
    {
        self = self.on(kind, handler);
        self.patient.insert(kind.to_owned());
        self
    }

    /// Undoes what was done for own events of a type, when one turns out to be superseded: another replica, the other side
    /// of a partition or a deadline had decided before. The handler emits the event that the declaration has as the
    /// type's compensation.
    #[must_use]
    pub fn undo<F, A>(mut self, kind: &str, handler: F) -> Self
    where
        F: Fn(Call) -> A + Send + Sync + 'static,
        A: Future<Output = Outcome> + Send + 'static,
    {
        self.undoings.insert(kind.to_owned(), Arc::new(move |call| Box::pin(handler(call))));
        self
    }

    /// The CloudEvents source of what it emits. Without it the first that the declaration has for the role, or else
    /// `/CHOREOGRAPHY/ROLE`. All replicas of a role have one source.
    #[must_use]
    pub fn source(mut self, source: &str) -> Self {
        self.source = Some(source.to_owned());
        self
    }

    /// Where events are published of which the declaration names no single topic.
    #[must_use]
    pub fn topic(mut self, topic: Topic) -> Self {
        self.topic = Some(topic);
        self
    }

    /// The type of the event that tells of a failure after the last attempt; `ROLE.failed` without it. It may be a declared one, to
    /// lead the instance on.
    #[must_use]
    pub fn failed_as(mut self, kind: &str) -> Self {
        self.failed = Some(kind.to_owned());
        self
    }

    /// The choreography.
    #[must_use]
    pub fn choreography(&self) -> &str {
        &self.choreography
    }

    /// The role.
    #[must_use]
    pub fn role(&self) -> &str {
        &self.role
    }

    /// The types of events that have a handler.
    pub fn handled(&self) -> impl Iterator<Item = &str> {
        self.handlers.keys().map(String::as_str)
    }

    /// Whether the handler of a type waits until an event is stable.
    #[must_use]
    pub fn is_patient(&self, kind: &str) -> bool {
        self.patient.contains(kind)
    }

    /// The type of the event that tells of a failure.
    #[must_use]
    pub fn failed_kind(&self) -> String {
        self.failed.clone().unwrap_or_else(|| format!("{}.failed", self.role))
    }

    /// The handler for a call, begun.
    #[must_use]
    pub fn handle(&self, call: Call) -> Option<Handling> {
        let handlers = match call.reason {
            Reason::Step => &self.handlers,
            Reason::Undo(_) => &self.undoings,
        };
        let handler = handlers.get(&call.event.kind)?;
        Some(handler(call))
    }

    /// Checks it against a version of its choreography.
    ///
    /// # Errors
    /// With the first thing that does not fit, and what to do.
    pub fn check(&self, declaration: &Declaration) -> Result<(), CastError> {
        if declaration.name() != &*self.choreography {
            return Err(CastError::OtherChoreography(self.choreography.to_string(), declaration.name().to_owned()));
        }
        let role = &*self.role;
        let Some(declared) = declaration.roles().get(role) else {
            let known = declaration.roles().keys().cloned().collect();
            return Err(CastError::UnknownRole { role: role.to_owned(), known });
        };
        if !declared.sources.is_empty() && !declared.sources.contains(&self.source_in(declaration)) {
            return Err(CastError::OtherSource { role: role.to_owned(), found: self.source_in(declaration) });
        }
        if let Some(kind) = self.handled().find(|kind| !declaration.knows(role, kind)) {
            return Err(CastError::Unseen { role: role.to_owned(), kind: kind.to_owned() });
        }
        for (kind, event_type) in declaration.events().iter().filter(|(_, event_type)| event_type.by == role) {
            self.topic_of(declaration, kind, None).map_err(CastError::Topic)?;
            if event_type.compensation.is_some() && !self.undoings.contains_key(kind) {
                return Err(CastError::NotUndone { role: role.to_owned(), kind: kind.clone() });
            }
        }
        let idle = |kind: &&String| {
            declaration.events().get(*kind).is_none_or(|event| event.by != role || event.compensation.is_none())
        };
        if let Some(kind) = self.undoings.keys().find(idle) {
            return Err(CastError::NothingToUndo { role: role.to_owned(), kind: kind.clone() });
        }
        Ok(())
    }

    /// Checks whether its role may be played at a node.
    ///
    /// # Errors
    /// When the declaration names nodes for the role, and this is none of them.
    pub fn check_node(&self, declaration: &Declaration, node: Author) -> Result<(), CastError> {
        let nodes = declaration.roles().get(&*self.role).map(|role| &role.nodes);
        match nodes.is_none_or(|nodes| nodes.is_empty() || nodes.contains(&node)) {
            true => Ok(()),
            false => Err(CastError::OtherNode { role: self.role.to_string(), node }),
        }
    }

    /// Events, each with the state that it leads to, after which this role has to act and for which it has no handler: it has
    /// to act in other ways then, see [`Participant::answer`].
    pub fn unanswered<'d>(&'d self, declaration: &'d Declaration) -> impl Iterator<Item = (&'d str, &'d str)> {
        let acts_in: BTreeSet<&str> = declaration
            .arrows()
            .filter(|arrow| arrow.after_ms.is_none() && declaration.emitter(arrow.kind) == Some(&*self.role))
            .map(|arrow| arrow.from)
            .collect();
        let arrows = declaration.arrows().map(|arrow| (arrow.kind, arrow.to));
        arrows.filter(move |(kind, to)| acts_in.contains(to) && !self.handlers.contains_key(*kind))
    }
}

impl fmt::Debug for Participant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Participant")
            .field("choreography", &self.choreography)
            .field("role", &self.role)
            .field("handles", &self.handlers.keys().collect::<Vec<_>>())
            .field("waits_with", &self.patient)
            .field("undoes", &self.undoings.keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

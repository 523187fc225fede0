//! What a participant has to do and what it may, by what is known of its instances.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::super::conformance::fold::Fold;
use super::super::conformance::{Conformance, Due, EventRef, Instance, Judgement, Superseded, Why};
use super::super::declaration::Declaration;
use super::super::determined::Answer;
use super::super::observed::{Observed, ROLE_EXTENSION, VERSION_EXTENSION};
use super::super::rank::Rank;
use super::error::Refused;
use super::{Call, Emission, MAX_EMISSIONS, Participant, Reason, Received};
use crate::event::{Event, Value};
use crate::hlc::Hlc;
use crate::topic::Topic;

/// What is to become of an event that was delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Course {
    /// Its handler is to be called.
    Handle,
    /// It is done: it was answered, by this replica before or by another, or the role has no handler for it.
    Done,
    /// It is no step of its instance, and done unless an event that arrives late makes it one: see
    /// [`Participant::stalled`].
    PassOver,
    /// It has not been folded yet.
    Unknown,
}

/// An event that is to be published.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    /// Where.
    pub topic: Topic,
    /// The event, whole.
    pub event: Event,
}

/// That an event was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivingUp {
    /// What its handler said last.
    pub reason: String,
    /// How often it was tried.
    pub attempts: u32,
    /// 1 for the first time, 2 when it was given up again after a redrive: each time is told in an event of its own.
    pub time: u32,
}

/// What an event that is to be emitted follows from.
struct Origin<'a> {
    correlation: &'a str,
    declaration: &'a Declaration,
}

impl Participant {
    /// What is to become of an event.
    #[must_use]
    pub fn course(&self, conformance: &Conformance, event: &Received) -> Course {
        if !self.handlers.contains_key(&event.kind) {
            return Course::Done;
        }
        let Some(fold) = conformance.fold(&event.correlation) else { return Course::Unknown };
        match fold.find(&event.source, &event.id) {
            None => Course::Unknown,
            Some((_, Judgement::Step { .. })) if self.is_answered(conformance, fold, &event.source, &event.id) => {
                Course::Done
            }
            Some((_, Judgement::Step { .. })) => Course::Handle,
            Some(_) => Course::PassOver,
        }
    }

    /// Whether the role has emitted something in answer to an event: its id tells.
    fn is_answered(&self, conformance: &Conformance, fold: &Fold, source: &str, id: &str) -> bool {
        let Some(declaration) = declaration_of(conformance, fold.instance()) else { return false };
        let (own, answer) = (self.source_in(declaration), self.answer_to(source, id));
        let mut kinds = declaration.events().iter().filter(|(_, event)| event.by == *self.role).map(|(kind, _)| kind);
        kinds.any(|kind| fold.find(&own, &answer.event_id(kind, 0)).is_some())
    }

    fn answer_to<'a>(&'a self, source: &'a str, id: &'a str) -> Answer<'a> {
        Answer { choreography: &self.choreography, role: &self.role, source, id }
    }

    /// What the handler of an event is called with. None when its instance is not known.
    #[must_use]
    pub fn call(&self, conformance: &Conformance, event: Received, reason: Reason, attempt: u32) -> Option<Call> {
        let fold = conformance.fold(&event.correlation)?;
        let (found, _) = fold.find(&event.source, &event.id)?;
        let undone = matches!(reason, Reason::Undo(_)).then(|| found.causes.first()).flatten();
        let of_cause = |cause: &String| fold.judged().iter().find(|(judged, _)| judged.id == *cause);
        let answered = undone.and_then(of_cause).map_or(found, |(cause, _)| cause);
        let (choreography, role) = (self.choreography.clone(), self.role.clone());
        let (instance, answered) = (fold.instance().clone(), EventRef::from(&**answered));
        Some(Call { choreography, role, event, reason, answered, instance, attempt })
    }

    /// What is published in answer to an event. Less than what is wanted when an event is here already, or has been
    /// overtaken and did nothing that would have to be undone.
    ///
    /// # Errors
    /// When something of it is not allowed.
    pub fn answer(
        &self,
        conformance: &Conformance,
        event: &Received,
        wanted: Vec<Emission>,
        now_ms: u64,
    ) -> Result<Vec<Planned>, Refused> {
        if wanted.len() > MAX_EMISSIONS {
            return Err(Refused::TooMany(wanted.len()));
        }
        let unknown = || Refused::UnknownInstance(event.correlation.clone());
        let fold = conformance.fold(&event.correlation).ok_or_else(unknown)?;
        let declaration = declaration_of(conformance, fold.instance()).ok_or_else(unknown)?;
        let origin = Origin { correlation: &event.correlation, declaration };
        let answer = self.answer_to(&event.source, &event.id);
        let (mut planned, mut counts) = (Vec::<Planned>::with_capacity(wanted.len()), BTreeMap::<String, u32>::new());
        for emission in wanted {
            // Without the step before as a cause, two steps would count as two answers of which one is too late.
            let count = counts.entry(emission.kind.clone()).or_default();
            let id = answer.event_id(&emission.kind, *count);
            *count += 1;
            let before = match planned.last() {
                Some(before) => Some(before.event.id.clone()),
                None => begun_by_another(declaration, fold, event, &emission.kind),
            };
            let causes = std::iter::once(event.id.clone()).chain(before).collect();
            planned.push(self.plan(&origin, emission, id, causes)?);
        }
        allow(conformance, fold, declaration, planned, now_ms)
    }

    /// The first event of an instance, or one that answers none, of an instance that is known.
    ///
    /// # Errors
    /// When it is not allowed.
    pub fn begin(
        &self,
        conformance: &Conformance,
        correlation: &str,
        id: &str,
        wanted: Emission,
        now_ms: u64,
    ) -> Result<Option<Planned>, Refused> {
        let versions = conformance.versions();
        let latest = versions.at(Hlc::from_ms(now_ms));
        let fresh = Fold::new(correlation);
        let fold = conformance.fold(correlation).unwrap_or(&fresh);
        let declaration = match fold.instance().version {
            Some(version) => versions.get(version),
            None => Some(latest),
        };
        let declaration = declaration.ok_or_else(|| Refused::UnknownInstance(correlation.to_owned()))?;
        let origin = Origin { correlation, declaration };
        // What answers no event follows from the state that it found.
        let causes = fold.instance().last_step.iter().map(|step| step.id.clone()).collect();
        let planned = self.plan(&origin, wanted, id.to_owned(), causes)?;
        Ok(allow(conformance, fold, declaration, vec![planned], now_ms)?.pop())
    }

    /// Deadlines that this role sees to and that have passed, with their instances, the earliest first. They hold until
    /// their event is here.
    pub fn overdue<'c>(
        &'c self,
        conformance: &'c Conformance,
        now_ms: u64,
    ) -> impl Iterator<Item = (&'c str, &'c Due)> {
        conformance.due(now_ms).filter(|(_, due)| due.by == *self.role)
    }

    /// The event of a deadline, the same from every replica of the role. None when its instance or where it belongs is
    /// not known.
    #[must_use]
    pub fn expire(&self, conformance: &Conformance, correlation: &str, due: &Due) -> Option<Planned> {
        let declaration = declaration_of(conformance, conformance.instance(correlation)?)?;
        let origin = Origin { correlation, declaration };
        self.plan(&origin, Emission::new(&due.kind), due.id.clone(), vec![due.cause.id.clone()]).ok()
    }

    /// The event for whose answer an instance waits, if that is this role's to give: its handler is to be called, unless
    /// that is under way or was given up. An event that was passed over, since another seemed to have decided before
    /// it, is found here when an event that arrived late has made it a step after all.
    #[must_use]
    pub fn stalled<'c>(&self, conformance: &'c Conformance, correlation: &str) -> Option<&'c Observed> {
        let fold = conformance.fold(correlation)?;
        let (instance, declaration) = (fold.instance(), declaration_of(conformance, fold.instance())?);
        let cause = instance.last_step.as_ref().filter(|step| self.handlers.contains_key(&step.kind))?;
        let mut possible = declaration.states().get(&instance.state)?.on.keys();
        let is_own = possible.any(|kind| declaration.emitter(kind) == Some(&*self.role));
        let (event, _) = fold.find(&cause.source, &cause.id)?;
        (is_own && !self.is_answered(conformance, fold, &cause.source, &cause.id)).then_some(&**event)
    }

    /// Own events of an instance that did something, are superseded and not undone, and that this participant undoes: each as
    /// its undoing gets it, and what decided before it.
    pub fn owed<'c>(
        &'c self,
        conformance: &'c Conformance,
        correlation: &str,
    ) -> impl Iterator<Item = (Received, &'c Superseded)> {
        let fold = conformance.fold(correlation);
        fold.into_iter().flat_map(move |fold| {
            fold.instance().owed.iter().filter_map(move |owed| {
                let (event, _) = fold.find(&owed.event.source, &owed.event.id)?;
                let superseded = fold.instance().superseded.iter().find(|found| found.event.rank == owed.event.rank)?;
                let is_own = self.undoings.contains_key(&event.kind) && owed.compensation.is_some();
                is_own.then(|| (name_only(event), superseded))
            })
        })
    }

    /// The event that tells that an event could not be answered. None when nobody can be told: nothing says where it is
    /// published.
    #[must_use]
    pub fn failed(&self, conformance: &Conformance, event: &Received, gave_up: &GivingUp) -> Option<Planned> {
        let GivingUp { reason, attempts, time } = gave_up;
        let kind = self.failed_kind();
        let declaration = match conformance.instance(&event.correlation) {
            Some(instance) => declaration_of(conformance, instance)?,
            None => conformance.versions().at(event.stamp),
        };
        let data = serde_json::json!({
            "role": &*self.role,
            "reason": reason,
            "attempts": attempts,
            "time": time,
            "event": { "type": event.kind, "source": event.source, "id": event.id },
        });
        let topic = match declaration.events().contains_key(&kind) {
            true => self.topic_of(declaration, &kind, None).ok()?,
            false => self.topic.clone().or_else(|| self.any_topic(declaration))?,
        };
        let emission = Emission::json(&kind, &data).ok()?.to(topic);
        let id = self.answer_to(&event.source, &event.id).event_id(&kind, time.saturating_sub(1));
        let origin = Origin { correlation: &event.correlation, declaration };
        Some(self.write(&origin, emission.topic.clone()?, emission, id, vec![event.id.clone()]))
    }

    /// Where some event of this role goes: whoever looks after the choreography looks there.
    fn any_topic(&self, declaration: &Declaration) -> Option<Topic> {
        let own = declaration.events().iter().filter(|(_, event)| event.by == *self.role);
        own.into_iter().find_map(|(kind, _)| self.topic_of(declaration, kind, None).ok())
    }

    fn plan(&self, origin: &Origin<'_>, wanted: Emission, id: String, causes: Vec<String>) -> Result<Planned, Refused> {
        let declaration = origin.declaration;
        let Some(event_type) = declaration.events().get(&wanted.kind) else {
            let choreography = self.choreography.to_string();
            return Err(Refused::Undeclared { choreography, kind: wanted.kind });
        };
        if event_type.by != *self.role {
            let (by, role) = (event_type.by.clone(), self.role.to_string());
            return Err(Refused::OtherRole { kind: wanted.kind, by, role });
        }
        let topic = self.topic_of(declaration, &wanted.kind, wanted.topic.clone())?;
        Ok(self.write(origin, topic, wanted, id, causes))
    }

    fn write(&self, origin: &Origin<'_>, topic: Topic, wanted: Emission, id: String, causes: Vec<String>) -> Planned {
        let version = origin.declaration.version().to_string();
        let event = Event {
            kind: wanted.kind,
            id,
            source: self.source_in(origin.declaration),
            subject: wanted.subject,
            // What belongs to one instance is delivered in order, and processed in one place.
            key: Some(origin.correlation.to_owned()),
            content_type: wanted.content_type,
            causes,
            correlation: Some(origin.correlation.to_owned()),
            extensions: vec![
                (VERSION_EXTENSION.to_owned(), Value::Text(version)),
                (ROLE_EXTENSION.to_owned(), Value::Text(self.role.to_string())),
            ],
            data: wanted.data,
        };
        Planned { topic, event }
    }

    pub(super) fn source_in(&self, declaration: &Declaration) -> String {
        let declared = || declaration.roles().get(&*self.role)?.sources.first().cloned();
        let own = self.source.clone().or_else(declared);
        own.unwrap_or_else(|| format!("/{}/{}", self.choreography, self.role))
    }

    /// Where events of a type are published: where it was said, or else where the declaration says, or else in the own topic.
    pub(super) fn topic_of(
        &self,
        declaration: &Declaration,
        kind: &str,
        wanted: Option<Topic>,
    ) -> Result<Topic, Refused> {
        let pattern = declaration.events().get(kind).and_then(|event| event.topic.as_ref());
        let declared = pattern.and_then(|pattern| Topic::new(pattern.as_str()).ok());
        let topic = wanted.or(declared).or_else(|| self.topic.clone());
        let topic = topic.ok_or_else(|| Refused::NoTopic(kind.to_owned()))?;
        match pattern.filter(|pattern| !pattern.matches(&topic)) {
            Some(expected) => {
                let (expected, found) = (expected.to_string(), topic.to_string());
                Err(Refused::OtherTopic { kind: kind.to_owned(), expected, found })
            }
            None => Ok(topic),
        }
    }
}

fn declaration_of<'c>(conformance: &'c Conformance, instance: &Instance) -> Option<&'c Arc<Declaration>> {
    conformance.versions().get(instance.version?)
}

/// An event as its undoing gets it.
fn name_only(event: &Observed) -> Received {
    Received {
        topic: event.topic.clone(),
        source: event.source.clone(),
        id: event.id.clone(),
        kind: event.kind.clone(),
        subject: None,
        content_type: None,
        correlation: event.correlation.clone().unwrap_or_default(),
        stamp: event.rank.stamp,
        data: Bytes::new(),
    }
}

/// The event that began the present wait, for an answer to that wait that was decided on for the sake of an earlier event.
/// An answer has to name what it answers, or a second one could not be told from a violation.
fn begun_by_another(declaration: &Declaration, fold: &Fold, event: &Received, kind: &str) -> Option<String> {
    let allows = |state: &str| declaration.states().get(state).is_some_and(|state| state.transition(kind).is_some());
    let Some((_, Judgement::Step { to })) = fold.find(&event.source, &event.id) else {
        // What undoes a superseded event has that alone as its cause.
        return None;
    };
    let step = fold.instance().last_step.as_ref().filter(|_| !allows(to));
    step.map(|step| step.id.clone()).filter(|id| *id != event.id)
}

/// Looks how events would be judged if they came now, and keeps those that are to be published.
fn allow(
    conformance: &Conformance,
    fold: &Fold,
    declaration: &Declaration,
    planned: Vec<Planned>,
    now_ms: u64,
) -> Result<Vec<Planned>, Refused> {
    let last = fold.judged().last().map_or(Hlc(0), |(event, _)| event.rank.stamp);
    let stamp = Hlc::from_ms(now_ms).max(Hlc(last.0.saturating_add(1)));
    let observe = |(planned, index): (&Planned, u32)| Observed {
        rank: Rank { stamp, index, ..Rank::default() },
        topic: planned.topic.clone(),
        author: None,
        source: planned.event.source.clone(),
        id: planned.event.id.clone(),
        kind: planned.event.kind.clone(),
        causes: planned.event.causes.clone(),
        correlation: planned.event.correlation.clone(),
        role: planned.event.extensions.iter().find_map(|(name, value)| match value {
            Value::Text(text) if name == ROLE_EXTENSION => Some(text.clone()),
            _ => None,
        }),
        version: Some(declaration.version().to_string()),
    };
    let foreseen = fold.foresee(conformance.versions(), planned.iter().zip(0..).map(observe).collect());
    let mut allowed = Vec::with_capacity(planned.len());
    for (planned, judgement) in planned.into_iter().zip(foreseen) {
        let has_effect = declaration.events().get(&planned.event.kind).is_some_and(|event| event.effect);
        match judgement {
            Judgement::Step { .. } => allowed.push(planned),
            // What was done outside the mesh has to be known, or nobody would undo it; and so has its undoing.
            Judgement::Superseded { why, .. } if has_effect || why == Why::Compensation => allowed.push(planned),
            Judgement::Superseded { .. } | Judgement::Repeat => {}
            Judgement::Foreign => {
                let choreography = declaration.name().to_owned();
                return Err(Refused::Undeclared { choreography, kind: planned.event.kind });
            }
            Judgement::Violating(why) => {
                return Err(Refused::NotAllowed { kind: planned.event.kind, why: why.to_string() });
            }
        }
    }
    Ok(allowed)
}

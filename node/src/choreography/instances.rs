//! What is answered about instances, in JSON. Times are milliseconds since 1970.

use roundelay_protocol::choreography::Observed;
use roundelay_protocol::choreography::conformance::{
    Due, EventRef, Instance, Judgement, Late, Owed, Superseded, Verdict, Violation,
};
use roundelay_protocol::hlc::Hlc;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::observer::Judged;
use super::types::ChoreographyStatus;
use crate::peer_id::text_of;

/// Names an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EventName {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its source.
    pub source: String,
    /// Its id.
    pub id: String,
    /// Its stamp.
    pub at_ms: u64,
}

impl From<&EventRef> for EventName {
    fn from(EventRef { rank, kind, source, id }: &EventRef) -> Self {
        Self { kind: kind.clone(), source: source.clone(), id: id.clone(), at_ms: rank.stamp.as_ms() }
    }
}

/// A deadline that an instance waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Wait {
    /// When it is due.
    pub due_ms: u64,
    /// The type of the event that is to be emitted then.
    #[serde(rename = "type")]
    pub kind: String,
    /// The role that is to emit it.
    pub by: String,
    /// The id that it is to have.
    pub id: String,
    /// The event that began the wait, which it has to name as its cause.
    pub cause: EventName,
}

impl From<&Due> for Wait {
    fn from(Due { due_ms, state: _, kind, by, id, cause }: &Due) -> Self {
        Self { due_ms: *due_ms, kind: kind.clone(), by: by.clone(), id: id.clone(), cause: cause.into() }
    }
}

/// An instance at a glance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InstanceSummary {
    /// Its correlation id.
    pub correlation: String,
    /// The version that it plays by; missing when that is not known here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Its state; empty when the version is not known.
    pub state: String,
    /// `conforming`, `pending`, `superseded` or `violating`.
    pub verdict: String,
    /// How it ended: `success` or `failure`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<String>,
    /// What is wrong, in a sentence: its first violation, or else the first event that was superseded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// When it entered its state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<u64>,
    /// The deadline that it waits for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub due: Option<Wait>,
    /// Events that are here.
    pub events: usize,
    /// Events that led from state to state.
    pub steps: usize,
    /// Events that cannot be.
    pub violations: usize,
    /// Events that others had decided before.
    pub superseded: usize,
    /// Effects of superseded events that nothing has undone.
    pub owed: usize,
    /// Waits that were ended after they were due.
    pub late: usize,
    /// Something of it may have been pruned here before it was read: then all this may be wrong.
    pub is_partial: bool,
    /// Whether no event can come any more that is before the last one that is here: then only later ones change what is
    /// said. False as well where that is not known.
    pub is_stable: bool,
}

impl InstanceSummary {
    pub(super) fn new(judged: &Judged, stable: Hlc) -> Self {
        let Judged { correlation, instance, is_partial, events, last, .. } = judged;
        let verdict = instance.verdict();
        Self {
            correlation: correlation.clone(),
            version: instance.version.map(|version| version.to_string()),
            state: instance.state.clone(),
            verdict: verdict.as_str().to_owned(),
            end: instance.end.map(|end| end.to_string()),
            why: explain(&verdict),
            since_ms: instance.last_step.as_ref().map(|step| step.rank.stamp.as_ms()),
            due: instance.due.as_ref().map(Wait::from),
            events: *events,
            steps: instance.steps,
            violations: instance.violations.len(),
            superseded: instance.superseded.len(),
            owed: instance.owed.len(),
            late: instance.late.len(),
            is_partial: *is_partial,
            is_stable: *last <= stable,
        }
    }
}

fn explain(verdict: &Verdict) -> Option<String> {
    match verdict {
        Verdict::Violating(Violation { event, why }) => Some(format!("{event}: {}: {why}", why.code())),
        Verdict::Superseded(Superseded { event, why, by }) => Some(format!("{event}: {why} of {by}")),
        Verdict::Conforming { .. } | Verdict::Pending => None,
    }
}

/// A page of instances, by correlation id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Instances {
    /// The choreography, and how much of it is seen here.
    pub status: ChoreographyStatus,
    /// Whether everything that was stored when it was asked is in what is said.
    pub is_up_to_date: bool,
    /// Everything of the choreography that was stamped before this millisecond is here. 0 where that is not known.
    pub stable_ms: u64,
    /// The instances.
    pub instances: Vec<InstanceSummary>,
    /// What to give as `after` for the next page, when there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// An event that another had decided before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SupersededEvent {
    /// The event.
    pub event: EventName,
    /// `duplicate`, `same_id`, `consequence` or `compensation`.
    pub why: String,
    /// The event that counts.
    pub by: EventName,
}

impl From<&Superseded> for SupersededEvent {
    fn from(Superseded { event, why, by }: &Superseded) -> Self {
        Self { event: event.into(), why: why.to_string(), by: by.into() }
    }
}

/// An event that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Violated {
    /// The event.
    pub event: EventName,
    /// The kind of violation, a text that never changes.
    pub code: String,
    /// The same in words.
    pub why: String,
}

impl From<&Violation> for Violated {
    fn from(Violation { event, why }: &Violation) -> Self {
        Self { event: event.into(), code: why.code().to_owned(), why: why.to_string() }
    }
}

/// An effect of a superseded event that nothing has undone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OwedEffect {
    /// The superseded event.
    pub event: EventName,
    /// The type of the event that would undo it; missing when the declaration has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compensation: Option<String>,
}

impl From<&Owed> for OwedEffect {
    fn from(Owed { event, compensation }: &Owed) -> Self {
        Self { event: event.into(), compensation: compensation.clone() }
    }
}

/// A wait that was ended after it was due.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LateWait {
    /// The state.
    pub state: String,
    /// The event that ended it.
    pub event: EventName,
    /// When it was due.
    pub due_ms: u64,
}

impl From<&Late> for LateWait {
    fn from(Late { state, event, due_ms }: &Late) -> Self {
        Self { state: state.clone(), event: event.into(), due_ms: *due_ms }
    }
}

/// An event and how it was judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JudgedEvent {
    /// The event.
    #[serde(flatten)]
    pub event: EventName,
    /// Its topic.
    pub topic: String,
    /// The peer id of the node that published it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// The role that it names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Ids of the events that caused it.
    pub causes: Vec<String>,
    /// `step`, `repeat`, `foreign`, `superseded` or `violating`.
    pub judgement: String,
    /// The state that a step entered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Why it was superseded, or the kind of violation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The same in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

impl JudgedEvent {
    fn new(event: &Observed, judgement: &Judgement) -> Self {
        let (name, to, code, why) = match judgement {
            Judgement::Step { to } => ("step", Some(to.clone()), None, None),
            Judgement::Repeat => ("repeat", None, None, None),
            Judgement::Foreign => ("foreign", None, None, None),
            Judgement::Superseded { why, by } => {
                ("superseded", None, Some(why.to_string()), Some(format!("{by} counts")))
            }
            Judgement::Violating(why) => ("violating", None, Some(why.code().to_owned()), Some(why.to_string())),
        };
        Self {
            event: EventName::from(&EventRef::from(event)),
            topic: event.topic.to_string(),
            author: event.author.as_ref().map(text_of),
            role: event.role.clone(),
            causes: event.causes.clone(),
            judgement: name.to_owned(),
            to,
            code,
            why,
        }
    }
}

/// All that is known of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InstanceDetail {
    /// The choreography.
    pub choreography: String,
    /// Whether everything that was stored when it was asked is in what is said.
    pub is_up_to_date: bool,
    /// Everything of the choreography that was stamped before this millisecond is here. 0 where that is not known.
    pub stable_ms: u64,
    /// The instance at a glance.
    pub instance: InstanceSummary,
    /// Its events in total order, with how each was judged.
    pub events: Vec<JudgedEvent>,
    /// Events that cannot be.
    pub violations: Vec<Violated>,
    /// Events that others had decided before.
    pub superseded: Vec<SupersededEvent>,
    /// Effects of superseded events that nothing has undone.
    pub owed: Vec<OwedEffect>,
    /// Waits that were ended after they were due.
    pub late: Vec<LateWait>,
    /// Repeats of events.
    pub repeats: usize,
    /// Events of types that its version does not declare.
    pub foreign: usize,
    /// Events beyond the limit of 4,096, which were not judged.
    pub omitted: usize,
}

impl InstanceDetail {
    pub(super) fn new(choreography: &str, judged: &Judged, events: &[(Observed, Judgement)], stable: Hlc) -> Self {
        let Instance { violations, superseded, owed, late, repeats, foreign, omitted, .. } = &judged.instance;
        Self {
            choreography: choreography.to_owned(),
            is_up_to_date: true,
            stable_ms: stable.as_ms(),
            instance: InstanceSummary::new(judged, stable),
            events: events.iter().map(|(event, judgement)| JudgedEvent::new(event, judgement)).collect(),
            violations: violations.iter().map(Violated::from).collect(),
            superseded: superseded.iter().map(SupersededEvent::from).collect(),
            owed: owed.iter().map(OwedEffect::from).collect(),
            late: late.iter().map(LateWait::from).collect(),
            repeats: *repeats,
            foreign: *foreign,
            omitted: *omitted,
        }
    }
}

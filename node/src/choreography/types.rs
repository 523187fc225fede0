//! What is answered about choreographies, in JSON. Times are milliseconds since 1970.

use roundelay_protocol::choreography::Observed;
use roundelay_protocol::choreography::conformance::{
    Due, EventRef, Instance, Judgement, Late, Owed, Superseded, Verdict, Violation,
};
use roundelay_protocol::choreography::draft::DraftError;
use roundelay_protocol::choreography::finding::Finding;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::observer::Judged;
use super::publication::Publication;
use super::state::State;
use crate::peer_id::text_of;

/// What is wrong with a declaration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FindingInfo {
    /// Where it is, as in `states.placed.deadline`.
    pub place: String,
    /// The kind of flaw, a text that never changes: docs/choreography.md lists them.
    pub code: String,
    /// What is wrong.
    pub wrong: String,
    /// What to do.
    pub mend: String,
}

impl From<&Finding> for FindingInfo {
    fn from(Finding { place, code, wrong, mend }: &Finding) -> Self {
        Self { place: place.clone(), code: code.to_string(), wrong: wrong.clone(), mend: mend.clone() }
    }
}

/// What of a draft's form is wrong, when it could be read.
pub(crate) fn findings_of(error: &DraftError) -> Vec<FindingInfo> {
    match error {
        DraftError::Form(findings) => findings.iter().map(FindingInfo::from).collect(),
        DraftError::TooLarge(_) | DraftError::Toml(_) | DraftError::Json(_) => Vec::new(),
    }
}

/// A declaration that was published, or holds already.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PublishedChoreography {
    /// The choreography.
    pub name: String,
    /// The version: 64 hexadecimal digits.
    pub version: String,
    /// False when it held already, and nothing was published.
    pub is_new: bool,
    /// Flaws of its design, in spite of which it was published.
    pub findings: Vec<FindingInfo>,
}

/// Instances by what is said of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct VerdictCounts {
    /// They ended as declared.
    pub conforming: usize,
    /// They go on as declared.
    pub pending: usize,
    /// Some event was superseded, and nothing violated.
    pub superseded: usize,
    /// Some event cannot be.
    pub violating: usize,
}

/// A choreography, and how much of it is seen here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ChoreographyStatus {
    /// Its name.
    pub name: String,
    /// The version that holds for instances that begin now.
    pub version: String,
    /// When that was published.
    pub published_ms: u64,
    /// How often versions were published.
    pub publications: usize,
    /// Topics and patterns where its events may be.
    pub topics: Vec<String>,
    /// Those of them that this node does not subscribe to: it judges without what others publish there.
    pub not_subscribed: Vec<String>,
    /// Its instances.
    pub instances: VerdictCounts,
    /// Their events.
    pub events: usize,
    /// Whether the log is still being read, since the node began or a version was published: until then what is said
    /// lacks something.
    pub is_reading: bool,
    /// Instances that had ended and were forgotten to make room.
    pub forgotten: u64,
    /// Events that were not taken: for lack of room, or since their instances were forgotten.
    pub refused: u64,
    /// Instances that were folded anew, as an event came late or a version was published.
    pub refolded: u64,
    /// Events of its topics that are known and not here.
    pub missing_events: u64,
    /// Events up to this stamp were pruned here before they were read.
    pub pruned_upto_ms: Option<u64>,
}

impl ChoreographyStatus {
    /// Without what is not subscribed or missing, which others know.
    pub(super) fn of(state: &State, name: &str) -> Option<Self> {
        let (latest, judging) = (state.catalog.latest(name)?, state.judged.get(name)?);
        let count = |verdict| judging.verdicts.get(verdict).copied().unwrap_or(0);
        Some(Self {
            name: name.to_owned(),
            version: latest.version().to_string(),
            published_ms: latest.at.stamp.as_ms(),
            publications: state.catalog.publications(name).count(),
            topics: state.catalog.patterns(name).iter().map(ToString::to_string).collect(),
            not_subscribed: Vec::new(),
            instances: VerdictCounts {
                conforming: count("conforming"),
                pending: count("pending"),
                superseded: count("superseded"),
                violating: count("violating"),
            },
            events: judging.sizes().events,
            is_reading: judging.is_reading || state.rereading.contains(name),
            forgotten: judging.counts.forgotten,
            refused: judging.counts.refused + judging.counts.after_forgotten,
            refolded: judging.counts.refolded,
            missing_events: 0,
            pruned_upto_ms: judging.pruned_upto.map(|upto| upto.as_ms()),
        })
    }
}

/// All choreographies of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Choreographies {
    /// By name.
    pub choreographies: Vec<ChoreographyStatus>,
    /// Declarations that arrived and were not taken: they make no sense, or are beyond a limit.
    pub refused: u64,
}

/// A version of a choreography that was published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VersionInfo {
    /// Its hash.
    pub version: String,
    /// When it was published: it holds for instances that begin from then on, the first one for all before it too.
    pub since_ms: u64,
    /// The peer id of the node that published it.
    pub author: String,
}

impl From<&Publication> for VersionInfo {
    fn from(publication: &Publication) -> Self {
        Self {
            version: publication.version().to_string(),
            since_ms: publication.at.stamp.as_ms(),
            author: text_of(&publication.author),
        }
    }
}

/// A choreography with one of its declarations.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ChoreographyDetail {
    /// How much of it is seen here.
    pub status: ChoreographyStatus,
    /// What was published, in order.
    pub versions: Vec<VersionInfo>,
    /// The version whose declaration follows.
    pub version: String,
    /// The declaration.
    #[schema(value_type = Object)]
    pub declaration: Box<RawValue>,
}

impl ChoreographyDetail {
    pub(super) fn new<'a>(
        status: ChoreographyStatus,
        all: impl Iterator<Item = &'a Publication>,
        shown: &Publication,
    ) -> Self {
        // It was read as JSON, so that it is some.
        let declaration = RawValue::from_string(shown.json.clone()).unwrap_or_default();
        Self {
            status,
            versions: all.map(VersionInfo::from).collect(),
            version: shown.version().to_string(),
            declaration,
        }
    }
}

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
}

impl From<&Judged> for InstanceSummary {
    fn from(judged: &Judged) -> Self {
        let Judged { correlation, instance, is_partial, events, .. } = judged;
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
    pub(super) fn new(choreography: &str, judged: &Judged, events: &[(Observed, Judgement)]) -> Self {
        let Instance { violations, superseded, owed, late, repeats, foreign, omitted, .. } = &judged.instance;
        Self {
            choreography: choreography.to_owned(),
            is_up_to_date: true,
            instance: judged.into(),
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

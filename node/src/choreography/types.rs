//! What is answered about declarations, in JSON. Times are milliseconds since 1970.

use roundelay_protocol::choreography::draft::DraftError;
use roundelay_protocol::choreography::finding::Finding;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::publication::Publication;
use super::state::State;
use crate::peer_id::text_of;

/// What is wrong with a declaration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FindingInfo {
    /// Where it is, as in `states.placed.deadline`.
    pub place: String,
    /// The kind of flaw, a text that never changes: docs/choreography-reference.md lists them.
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

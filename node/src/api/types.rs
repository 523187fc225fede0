//! What goes over the API, besides CloudEvents and [`crate::status`].

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::choreography::FindingInfo;
use crate::cursor::Cursor;

/// Bytes of the largest request body that holds events.
pub const MAX_BODY_BYTES: usize = 16 * 1024 * 1024;
/// Events in one publication, at most.
pub const MAX_PUBLISH_EVENTS: usize = 16 * 1024;
/// Media type of one CloudEvent in JSON.
pub const EVENT_CONTENT_TYPE: &str = "application/cloudevents+json";
/// Media type of several CloudEvents in one JSON array.
pub const BATCH_CONTENT_TYPE: &str = "application/cloudevents-batch+json";
/// Media type of one JSON value a line.
pub const NDJSON_CONTENT_TYPE: &str = "application/x-ndjson";
/// Media type of server-sent events.
pub const EVENT_STREAM_CONTENT_TYPE: &str = "text/event-stream";
/// Streams of events that may be open at once.
pub const MAX_STREAMS: usize = 256;
/// Media type of [`Problem`].
pub const PROBLEM_CONTENT_TYPE: &str = "application/problem+json";
/// Milliseconds that a publication waits for acknowledgements unless told otherwise.
pub const DEFAULT_ACK_TIMEOUT_MS: u64 = 30_000;
/// Milliseconds between two signs of life on a stream of events that has nothing to say.
pub const HEARTBEAT_MS: u64 = 15_000;

/// The answer of `/livez`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Liveness {
    /// Always true: a node that is not alive does not answer.
    pub live: bool,
}

/// What was published: durable on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Published {
    /// Where.
    pub topic: String,
    /// The events, in the order in which they were given.
    pub events: Vec<PublishedEvent>,
    /// Peers that announced to hold all of them.
    pub peers: u32,
    /// Links that were up: 0 means that nobody else can have them yet.
    pub links: u32,
}

/// One event of a publication.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PublishedEvent {
    /// Its id.
    pub id: String,
    /// Its sequence number in this node's log of the topic.
    pub seq: u64,
    /// The place right after it in the node's store, for reading on from there.
    #[serde(default)]
    pub cursor: String,
    /// Whether it was published before, so that nothing was stored for it this time.
    #[serde(default)]
    pub duplicate: bool,
}

/// Why a request was refused or failed, after RFC 9457.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema, thiserror::Error)]
#[error("{detail}")]
pub struct Problem {
    /// A URI reference that names the kind of problem.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind of problem in a few words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// The kind of problem, for programs.
    pub code: Code,
    /// What happened, for people.
    pub detail: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// With [`Code::AcksTimeout`]: what was stored nevertheless. Its fields stand beside the others.
    #[serde(flatten, default)]
    pub published: Option<Published>,
    /// With [`Code::BadChoreography`]: what is wrong with the declaration.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<FindingInfo>,
}

/// The kinds of problems. New ones may be added; what a reader does not know is [`Code::Unknown`] to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The request is malformed.
    BadRequest,
    /// A topic breaks the rules of topics.
    BadTopic,
    /// A pattern breaks the rules of patterns.
    BadPattern,
    /// An event breaks the rules of CloudEvents, or a limit.
    BadEvent,
    /// A multiaddr cannot be read.
    BadAddress,
    /// A peer id cannot be read.
    BadPeer,
    /// The topic belongs to the system.
    SystemTopic,
    /// This node's rule for the topic does not let it publish there; nothing was stored.
    NotWriter,
    /// A rule cannot be set.
    BadRule,
    /// A declaration of a choreography is not sound, or its design has flaws; it was not published.
    BadChoreography,
    /// The node knows as many declarations of choreographies as it may; nothing was published.
    TooManyChoreographies,
    /// An event is larger than the limit.
    EventTooLarge,
    /// A request has more bytes or events than the limit.
    BodyTooLarge,
    /// The request body is not of a type that is taken here.
    UnsupportedMediaType,
    /// Too many patterns.
    TooManyPatterns,
    /// The answer cannot be had in a form that the request accepts.
    NotAcceptable,
    /// As many streams of events are open as there may be.
    TooManyStreams,
    /// As many connections over TCP are open as there may be.
    TooManyConnections,
    /// The request, which came over TCP, does not show the node's token.
    Unauthorized,
    /// The request names a host that this node is not.
    HostRefused,
    /// A web page of another site caused the request.
    CrossSite,
    /// There is no such route, or no such thing.
    NotFound,
    /// The route does not know the method.
    MethodNotAllowed,
    /// A file that would be overwritten.
    FileExists,
    /// What was asked for is being done already, and only once at a time.
    Busy,
    /// The node has as many consumers as it may.
    TooManyConsumers,
    /// A consumer of that name takes other events, or cannot be changed so.
    ConsumerExists,
    /// A cursor is of another store than this node's.
    OtherStore,
    /// A cursor names no event that the consumer delivered.
    NotDelivered,
    /// What was to be committed was acknowledged or committed by another call.
    AlreadyDone,
    /// An event with this source and id was published to the topic lately, with other content; nothing was stored.
    IdTaken,
    /// The store is full of events that nobody else has; nothing was stored.
    StoreFull,
    /// The disk that holds the store is full; nothing was stored.
    DiskFull,
    /// The node's clock cannot stamp events; nothing was stored.
    Clock,
    /// Stored here, but not on as many peers as asked, in time.
    AcksTimeout,
    /// The log was not compacted, for lack of room; it goes on as it was.
    NotCompacted,
    /// The log cannot be read or written.
    Log,
    /// The node is stopping or has stopped.
    Stopped,
    /// A mistake in the program.
    Internal,
    /// A kind that this program does not know. No node says so.
    #[serde(other)]
    Unknown,
}

impl Code {
    /// Whether whoever asked has to ask differently, rather than the node being in trouble.
    #[must_use]
    pub fn is_usage(self) -> bool {
        matches!(
            self,
            Self::BadRequest
                | Self::BadTopic
                | Self::BadPattern
                | Self::BadEvent
                | Self::BadAddress
                | Self::BadPeer
                | Self::SystemTopic
                | Self::NotWriter
                | Self::BadRule
                | Self::EventTooLarge
                | Self::BodyTooLarge
                | Self::UnsupportedMediaType
                | Self::TooManyPatterns
        )
    }
}

/// Where a stream of events begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum From {
    /// At the first event that is stored: `start`.
    Start,
    /// After the last: `end`.
    #[default]
    End,
    /// So many events before the end: `-N`.
    Last(u64),
    /// At the first event to arrive that was published at or after this time, in milliseconds since 1970: `@MS`.
    TimeMs(u64),
    /// After the batch with this arrival number: `arrival:N`.
    Arrival(u64),
    /// After an event, as its id in a stream of server-sent events names it: `EPOCH-ARRIVAL-INDEX`.
    Cursor(Cursor),
}

/// A text that names no place in the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is no place to start from: use start, end, -N, a time like 2026-01-31T09:00:00Z, @MILLISECONDS, a cursor or arrival:N"
)]
pub struct BadFrom(pub String);

impl std::fmt::Display for From {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Start => f.write_str("start"),
            Self::End => f.write_str("end"),
            Self::Last(count) => write!(f, "-{count}"),
            Self::TimeMs(ms) => write!(f, "@{ms}"),
            Self::Arrival(arrival) => write!(f, "arrival:{arrival}"),
            Self::Cursor(cursor) => cursor.fmt(f),
        }
    }
}

impl std::str::FromStr for From {
    type Err = BadFrom;

    fn from_str(text: &str) -> Result<Self, BadFrom> {
        // `parse` would take a sign.
        let number = |digits: &str| digits.starts_with(|c: char| c.is_ascii_digit()).then(|| digits.parse().ok())?;
        let place = match text {
            "start" => Some(Self::Start),
            "end" => Some(Self::End),
            _ => None
                .or_else(|| number(text.strip_prefix('-')?).map(Self::Last))
                .or_else(|| number(text.strip_prefix('@')?).map(Self::TimeMs))
                .or_else(|| number(text.strip_prefix("arrival:")?).map(Self::Arrival))
                .or_else(|| text.parse().map(Self::Cursor).ok())
                .or_else(|| time_ms(text.strip_prefix('@').unwrap_or(text)).map(Self::TimeMs)),
        };
        place.ok_or_else(|| BadFrom(text.to_owned()))
    }
}

/// Milliseconds since 1970 of a time in RFC 3339, whose `+` may have become a space in a query.
fn time_ms(text: &str) -> Option<u64> {
    let time: jiff::Timestamp = text.replace(' ', "+").parse().ok()?;
    u64::try_from(time.as_millisecond()).ok()
}

/// Which events to stream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EventsQuery {
    /// Patterns; an event is streamed when its topic matches any of them.
    pub patterns: Vec<String>,
    /// Where to begin.
    pub from: From,
    /// End after so many events.
    pub limit: Option<u64>,
    /// Wait for more at the end, instead of ending there.
    pub follow: bool,
}

/// Which instances to list.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct InstancesQuery {
    /// Only those in this state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Only those of which this is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<String>,
    /// Only those that entered their state so long ago, such as `1h30m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub older_than: Option<String>,
    /// As many, at most 1,000.
    pub limit: usize,
    /// Those beyond this correlation id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// Which keys of a view to list.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct ViewPageQuery {
    /// Only those that begin so.
    pub prefix: String,
    /// As many, at most 1,000.
    pub limit: usize,
    /// Those beyond this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// How to publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PublishOptions {
    /// Peers that must hold the events before the call returns.
    pub acks: u32,
    /// Milliseconds to wait for them; [`DEFAULT_ACK_TIMEOUT_MS`] if `None`. Beyond it: [`Code::AcksTimeout`].
    pub timeout_ms: Option<u64>,
}

/// An address to join by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddPeer {
    /// A multiaddr, with or without `/p2p/PEER`.
    pub address: String,
}

/// Whether there was something to remove.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Removed {
    /// False when there was nothing.
    pub removed: bool,
}

/// What was imported.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct Imported {
    /// Events that were published again, under this node's name.
    pub events: u64,
    /// Topics that they went to.
    pub topics: u64,
}

/// Where a backup shall go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BackupRequest {
    /// An absolute path of a file that does not exist.
    pub file: String,
}

/// What a backup holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BackedUp {
    /// The file.
    pub file: String,
    /// Its bytes.
    pub bytes: u64,
    /// The last arrival number in it.
    pub last_arrival: u64,
}

/// What holds for the topics that match a pattern. What is not set is no limit.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TopicRule {
    /// Events go that are older than this by their stamps and have been here for as long, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age_ms: Option<u64>,
    /// Bytes that each topic may take; beyond it the oldest events go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<u64>,
    /// Events that each topic may have; beyond it the oldest go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_events: Option<u64>,
    /// Of each key the last event stays, in the total order, and batches whose events are all superseded go.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keyed: bool,
    /// Ids of the nodes whose events are taken; missing: everybody's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writers: Option<Vec<String>>,
}

/// A pattern and its rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PatternRule {
    /// A topic or a pattern.
    pub pattern: String,
    /// What holds for it.
    pub rule: TopicRule,
}

/// What rewriting the store brought.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Compacted {
    /// Bytes of the store's file before.
    pub bytes_before: u64,
    /// Bytes of the store's file after.
    pub bytes_after: u64,
}

impl std::convert::From<crate::log::RewriteReport> for Compacted {
    fn from(report: crate::log::RewriteReport) -> Self {
        Self { bytes_before: report.bytes_before, bytes_after: report.bytes_after }
    }
}

/// A line of the answer to a verification: any number of `progress`, then one `report`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum VerifyLine {
    /// How far it is.
    Progress {
        /// Arrival numbers that were checked.
        done: u64,
        /// Arrival numbers to check.
        total: u64,
    },
    /// The end.
    Report(Verified),
    /// The store could not be read; there is no report.
    Failed(Problem),
}

/// What a verification found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct Verified {
    /// Whether nothing is wrong.
    pub clean: bool,
    /// Batches that were checked.
    pub batches: u64,
    /// Events in them.
    pub events: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Logs that were checked.
    pub logs: u64,
    /// What is wrong, in sentences: the first thousand.
    pub problems: Vec<String>,
    /// How many problems there are.
    pub problem_count: u64,
}

impl std::convert::From<crate::log::VerifyReport> for Verified {
    fn from(report: crate::log::VerifyReport) -> Self {
        Self {
            clean: report.problem_count == 0,
            batches: report.batches,
            events: report.events,
            bytes: report.bytes,
            logs: report.logs,
            problems: report.problems.iter().map(ToString::to_string).collect(),
            problem_count: report.problem_count,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_read_back_as_they_are_written() {
        for place in [From::Start, From::End, From::Last(3), From::TimeMs(1_700_000_000_000), From::Arrival(0)] {
            assert_eq!(place.to_string().parse(), Ok(place));
        }
        for bad in ["", "-", "--1", "-+1", "@", "@x", "arrival:", "1", "begin"] {
            assert_eq!(bad.parse::<From>(), Err(BadFrom(bad.into())));
        }
        for time in ["2026-03-02T13:00:00+02:00", "2026-03-02T13:00:00 02:00", "@2026-03-02T11:00:00Z"] {
            assert_eq!(time.parse(), Ok(From::TimeMs(1_772_449_200_000)), "{time}");
        }
        let cursor = From::Cursor("00c0ffee00c0ffee-1042-3".parse().unwrap());
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
    }

    #[test]
    fn a_problem_reads_back_with_and_without_what_was_stored() {
        let mut problem = Problem {
            kind: "urn:roundelay:problem:acks_timeout".into(),
            title: "Too few acknowledgements".into(),
            status: 504,
            code: Code::AcksTimeout,
            detail: "stored".into(),
            hint: None,
            published: None,
            findings: Vec::new(),
        };
        let json = serde_json::to_string(&problem).unwrap();
        assert_eq!(serde_json::from_str::<Problem>(&json).unwrap(), problem);
        let events = vec![PublishedEvent { id: "a".into(), seq: 1, cursor: "c".into(), duplicate: false }];
        problem.published = Some(Published { topic: "t".into(), events, peers: 0, links: 1 });
        let json = serde_json::to_string(&problem).unwrap();
        assert!(
            json.contains(r#""events":[{"id":"a","seq":1,"cursor":"c","duplicate":false}],"peers":0,"links":1"#),
            "{json}"
        );
        assert_eq!(serde_json::from_str::<Problem>(&json).unwrap(), problem);
        let unknown = json.replace("acks_timeout\",\"detail", "of_the_future\",\"detail");
        assert_eq!(serde_json::from_str::<Problem>(&unknown).unwrap().code, Code::Unknown);
    }
}

//! What consumers are asked and what they answer.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::config::ConsumerConfig;

/// A consumer, and how far it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConsumerInfo {
    /// Its name.
    pub name: String,
    /// How it is set up.
    pub config: ConsumerConfig,
    /// How far it is.
    pub lag: Lag,
}

/// How far a consumer is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Lag {
    /// Events that are not done: those that wait, are delivered, or were not looked at yet.
    pub events: u64,
    /// Whether there are more than that, which were not counted.
    pub more: bool,
    /// Of these: events that are ready, or wait for their turn or their next delivery.
    pub waiting: u64,
    /// Of these: events that were delivered and are not acknowledged.
    pub in_flight: u64,
    /// Events that other members of the group have.
    pub of_other_members: u64,
    /// When the first event arrived that is not done, by its stamp, in milliseconds since 1970.
    pub oldest_ms: Option<u64>,
    /// Everything up to this cursor is done.
    pub cursor: String,
    /// Dead letters.
    pub dead: u64,
    /// What was pruned before it was done, if anything was.
    pub missed: Option<Missed>,
    /// Members of the group that are alive, by peer id; none without a group.
    pub members: Vec<String>,
}

/// Events that a consumer will never get, because the node's retention took them first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct Missed {
    /// How many are known to be lost.
    pub events: u64,
    /// Whether more are lost than could be counted.
    pub more: bool,
    /// When the last of them was missed, in milliseconds since 1970.
    pub at_ms: u64,
}

/// What a fetch brings.
#[derive(Debug, Clone, Default)]
pub struct Fetched {
    /// CloudEvents in JSON, each with `rdlcursor` and `rdlattempt`.
    pub events: Vec<Vec<u8>>,
    /// What was missed since the last time that it was told.
    pub gap: Option<Missed>,
}

/// What became of an acknowledgement, negative or not, or a call for more time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct Acknowledged {
    /// Events that it changed.
    pub events: u64,
    /// Events that were done before.
    pub already: u64,
}

/// Which events are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// These cursors.
    Each(Vec<String>),
    /// All that were delivered and are not acknowledged, up to a cursor.
    UpTo(String),
}

/// Where to go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Seek {
    /// `start`, `end`, `@MILLISECONDS` since 1970, or a cursor.
    pub to: String,
}

/// What became of a commit: the same again when the call is repeated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CommitAnswer {
    /// Events that were processed.
    pub processed: u64,
    /// The events that came of them, in the order in which they were given.
    pub events: Vec<CommittedEvent>,
    /// Whether the same commit was made before, and this call did nothing.
    pub duplicate: bool,
}

/// An event of a commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CommittedEvent {
    /// Its topic.
    pub topic: String,
    /// Its id.
    pub id: String,
    /// Its sequence number in this node's log of the topic; none when a repeated call finds it pruned.
    pub seq: Option<u64>,
}

/// One delivery that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Attempt {
    /// When it failed, in milliseconds since 1970.
    pub at_ms: u64,
    /// How: `refused` by a negative acknowledgement, `expired` without an answer, or `gone` with the member that had it.
    pub outcome: String,
    /// What the member said, shortened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A dead letter without its event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Letter {
    /// Its number.
    pub number: u64,
    /// The cursor that the event had.
    pub cursor: String,
    /// The topic of the event.
    pub topic: String,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its source.
    pub source: String,
    /// Its id.
    pub id: String,
    /// Its key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Why it is dead.
    pub reason: String,
    /// When it died, in milliseconds since 1970.
    pub at_ms: u64,
    /// Every delivery that failed; the last 64 after redrives.
    pub attempts: Vec<Attempt>,
    /// How often it was given up: once, and once more after each redrive that was in vain.
    #[serde(default = "once")]
    pub failures: u32,
    /// Whether it is being delivered again.
    pub redriven: bool,
}

/// What letters of before this was counted say of it.
fn once() -> u32 {
    1
}

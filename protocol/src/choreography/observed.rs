//! What is looked at of an event: who, what, when, why. Its data are left out.

use super::rank::Rank;
use crate::event::{EventView, Value};
use crate::ids::Author;
use crate::topic::Topic;

/// The extension attribute in which an emitter names the role that it plays.
pub const ROLE_EXTENSION: &str = "role";
/// The extension attribute in which an emitter names the version of its choreography, as the text of its hash.
pub const VERSION_EXTENSION: &str = "choreography";

/// Events of one id, from several sources, that a cause is taken to mean: the first. Causes name no source.
pub const MAX_NAMESAKES: usize = 4;

/// An event as it is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// Its place in the total order.
    pub rank: Rank,
    /// Where it was published.
    pub topic: Topic,
    /// The node that published it, where that is known.
    pub author: Option<Author>,
    /// Where it happened; together with the id its name.
    pub source: String,
    /// Its id.
    pub id: String,
    /// Its type.
    pub kind: String,
    /// Ids of the events that caused it.
    pub causes: Vec<String>,
    /// Its instance.
    pub correlation: Option<String>,
    /// The role that it says to come from.
    pub role: Option<String>,
    /// The version of its choreography that it names, as text.
    pub version: Option<String>,
}

impl Observed {
    /// What is looked at of an event in a batch.
    #[must_use]
    pub fn new(rank: Rank, topic: &Topic, author: Author, event: &EventView<'_>) -> Self {
        let extension = |wanted: &str| {
            event.extensions.iter().find_map(|(name, value)| match value {
                Value::Text(text) if *name == wanted => Some(text.clone()),
                _ => None,
            })
        };
        Self {
            rank,
            topic: topic.clone(),
            author: Some(author),
            source: event.source.to_owned(),
            id: event.id.to_owned(),
            kind: event.kind.to_owned(),
            causes: event.causes.iter().map(|&cause| cause.to_owned()).collect(),
            correlation: event.correlation.map(str::to_owned),
            role: extension(ROLE_EXTENSION),
            version: extension(VERSION_EXTENSION),
        }
    }

    /// Milliseconds since 1970 of its stamp.
    #[must_use]
    pub fn at_ms(&self) -> u64 {
        self.rank.stamp.as_ms()
    }
}
